"""What a loop shows while it runs: its words, and one line of progress over all of it."""

from __future__ import annotations

import math
import time
from collections.abc import Callable
from typing import Protocol

from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.progress import progress_of
from caffe_split.trainlog.show import duration, number

# Where there is no terminal a line comes at most this often, in seconds.
EVERY = 10.0


class Screen(Protocol):
    """Where a loop's words and its line go."""

    def say(self, text: str) -> None:
        """Print text that stays."""

    def line(self, text: str, done: int, total: int) -> None:
        """Show the line of progress in place of the last one; `done` of `total` iterations are trained."""


class Silent:
    """A screen that shows nothing."""

    def say(self, text: str) -> None:
        """Print text that stays."""

    def line(self, text: str, done: int, total: int) -> None:
        """Show the line of progress in place of the last one."""


class LoopProgress:
    """Counts the iterations of all trainings of a loop, and writes its line; a reporter of each of them in turn.

    `total` are the iterations of the whole loop, `done` those that were trained before this run of it. The time that
    is left comes from the speed of this run.
    """

    def __init__(self, screen: Screen, total: int, done: int, clock: Callable[[], float] = time.monotonic) -> None:
        self._screen, self._total, self._done, self._clock = screen, total, done, clock
        self._name, self._begins, self._size, self._reached = "", 0, 0, 0
        self._trained, self._since, self._seconds = 0, 0.0, 0.0
        self._best = math.nan

    def start(self, name: str, end: int, begins: int = 0) -> None:
        """The training `name` starts at iteration `begins` and goes on to `end`."""
        self._name, self._begins, self._size, self._since = name, begins, end - begins, self._clock()
        self._reached = 0

    def end(self) -> None:
        """It has ended."""
        self._seconds += self._clock() - self._since
        self._done, self._trained = self._done + self._size, self._trained + self._size
        self._size = 0

    def update(self, log: TrainingLog) -> None:
        """There is more in its log."""
        end = self._begins + self._size
        now = progress_of(log, end)
        self._reached = max(now.iteration - self._begins, 0)
        if not math.isnan(now.best):
            self._best = now.best if math.isnan(self._best) else max(self._best, now.best)
        parts = [f"{self._name}: iteration {self._begins + self._reached}/{end}"]
        if not math.isnan(now.loss):
            parts.append(f"loss {number(now.loss, 4)}")
        if not math.isnan(self._best):
            parts.append(f"best so far {number(self._best, 4)}")
        left = self._left()
        if left is not None:
            parts.append(f"{duration(left)} left of all")
        self._screen.line("  ".join(parts), self._done + self._reached, self._total)

    def stopping(self) -> None:
        """The interrupt has been passed on."""
        self._screen.say("stopping: the training finishes its iteration")

    def _left(self) -> float | None:
        trained, seconds = self._trained + self._reached, self._seconds + self._clock() - self._since
        if not trained:
            return None
        return (self._total - self._done - self._reached) * seconds / trained
