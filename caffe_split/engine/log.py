"""The log of a training: solver.cpp's lines under glog's prefix, so that every reader of Caffe's logs takes it."""

from __future__ import annotations

import os
import sys
from datetime import datetime
from typing import TextIO


class Log:
    """Lines like `I20261123 01:28:47.885058 10692 engine.py:51] Iteration 0, lr = 0.01`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._id = os.getpid()

    def info(self, message: str) -> None:
        """An ordinary line."""
        self._write("I", message)

    def fatal(self, message: str) -> None:
        """Why a training ends. It does not end here."""
        self._write("F", message)

    def _write(self, level: str, message: str) -> None:
        # The line of our code that speaks, where Caffe has that of solver.cpp.
        line = sys._getframe(2).f_lineno
        now = datetime.now()
        self._stream.write(f"{level}{now:%Y%m%d %H:%M:%S.%f} {self._id} engine.py:{line}] {message}\n")
        self._stream.flush()


class Silent(Log):
    """Of a process that leaves the log to another."""

    def _write(self, level: str, message: str) -> None:
        pass


def number(value: float) -> str:
    """A number as Caffe's streams print it: six digits that count."""
    return f"{value:.6g}"


class Smoothed:
    """The mean of the last `length` losses (average_loss), kept as Caffe keeps it."""

    def __init__(self, length: int) -> None:
        self.value = 0.0
        self._length = length
        self._losses: list[float] = []

    def add(self, loss: float, done: int) -> None:
        """The loss of the next iteration, `done` being those before it."""
        if len(self._losses) < self._length:
            self._losses.append(loss)
            count = len(self._losses)
            self.value = (self.value * (count - 1) + loss) / count
        else:
            place = done % self._length
            self.value += (loss - self._losses[place]) / self._length
            self._losses[place] = loss
