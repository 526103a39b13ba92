"""The log of a training: the lines of solver.cpp under glog's prefix, as all readers of Caffe's logs expect them."""

from __future__ import annotations

import inspect
import os
import sys
from datetime import datetime
from typing import TextIO


class Log:
    """Writes lines like `I20261123 01:28:47.885058 10692 engine.py:51] Iteration 0, lr = 0.01`."""

    def __init__(self, stream: TextIO | None = None) -> None:
        self._stream = stream if stream is not None else sys.stderr
        self._id = os.getpid()

    def info(self, message: str) -> None:
        """Write an ordinary line."""
        self._write("I", message)

    def fatal(self, message: str) -> None:
        """Write the line that says why a training ends. Ending it is up to the caller."""
        self._write("F", message)

    def _write(self, level: str, message: str) -> None:
        # The number of the line that called `info` or `fatal`, where Caffe gives that of solver.cpp.
        frame = inspect.currentframe()
        for _ in range(2):
            frame = frame.f_back if frame is not None else None
        line = frame.f_lineno if frame is not None else 0
        now = datetime.now()
        self._stream.write(f"{level}{now:%Y%m%d %H:%M:%S.%f} {self._id} engine.py:{line}] {message}\n")
        self._stream.flush()


class SilentLog(Log):
    """The log of a process that leaves writing to another one."""

    def _write(self, level: str, message: str) -> None:
        pass


def number(value: float) -> str:
    """A number as Caffe's streams print it: six significant digits."""
    return f"{value:.6g}"
