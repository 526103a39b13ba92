"""One run in a training log: its tables of numbers, its events, and where each of them stood in the file."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import datetime, timedelta

import numpy as np

from caffe_split.trainlog.columns import Table
from caffe_split.trainlog.lines import NO_CLOCK
from caffe_split.trainlog.messages import SNAPSHOT, text


@dataclass(frozen=True)
class Event:
    """One line that reports no value: a start, a snapshot, an end, a fatal message.

    kind: start, header, solving, restore, resume, weights, snapshot, multistep, stopped, done, interrupted,
    fatal, signal, gpus, waiting or ignored. text: the message without its prefix.
    iteration: the last one seen before it, or -1. line: counted from 1. offset: of the line's first byte.
    clock: microseconds since 1970, or NO_CLOCK.
    """

    kind: str
    text: str
    iteration: int
    line: int
    offset: int
    clock: int

    @property
    def path(self) -> str | None:
        """The file that a snapshot wrote, as printed; None for other events."""
        found = SNAPSHOT.match(self.text.encode("utf-8", "backslashreplace")) if self.kind == "snapshot" else None
        return None if found is None else text(found["path"])


@dataclass(frozen=True)
class Run:
    """One start of Caffe: from its first line to its last.

    start, end: of its training, in microseconds since 1970, or NO_CLOCK.
    displays: columns `loss` (smoothed, as Caffe prints it) and `iter/s`. train: the train net's outputs.
    lr: column `lr`. clips: columns `norm` and `scale` of gradient clipping. tests: test net number -> its
    outputs. batches: of `caffe test`, one row per batch. results: the means that `caffe test` ends with,
    by output, or the times of `caffe time`, by layer and pass, in ms.
    """

    first_line: int
    last_line: int
    start: int
    end: int
    displays: Table
    train: Table
    lr: Table
    clips: Table
    tests: dict[int, Table]
    batches: Table
    results: dict[str, float]
    events: list[Event] = field(default_factory=list)

    @property
    def started(self) -> datetime | None:
        """When it started, in the log's own time zone; None without a clock."""
        return None if self.start == NO_CLOCK else datetime(1970, 1, 1) + timedelta(microseconds=self.start)

    @property
    def seconds(self) -> float:
        """From the first to the last stamp that belongs to training; NaN without a clock."""
        return float("nan") if NO_CLOCK in (self.start, self.end) else (self.end - self.start) / 1e6

    def seconds_to(self, iteration: int) -> float:
        """The seconds until it came to an iteration, between the two printed ones that are nearest.

        Those of the whole run where it printed none that is as high; NaN without a clock.
        """
        if iteration > self.last_iteration:
            return self.seconds
        tables = (self.displays, *self.tests.values())
        iterations, seconds = (
            np.concatenate([getattr(each, key) for each in tables]) for key in ("iteration", "seconds")
        )
        known = np.flatnonzero(np.isfinite(seconds))
        order = known[np.argsort(iterations[known], kind="stable")]
        return float(np.interp(iteration, iterations[order], seconds[order])) if len(order) else float("nan")

    @property
    def last_iteration(self) -> int:
        """The highest iteration printed, or -1."""
        return max((last for _, last in self._ends), default=-1)

    @property
    def first_iteration(self) -> int:
        """The lowest iteration printed, or -1."""
        return min((first for first, _ in self._ends), default=-1)

    @property
    def _ends(self) -> list[tuple[int, int]]:
        """The first and last iteration of each table. Within a run iterations never go back."""
        tables = (self.displays, self.train, self.lr, *self.tests.values())
        return [part.iterations.ends() for table in tables for part in table.parts]

    def of_kind(self, *kinds: str) -> list[Event]:
        """Its events of these kinds, in order."""
        return [event for event in self.events if event.kind in kinds]

    @property
    def trains(self) -> bool:
        """Whether it is a training; `caffe test` and `caffe time` print batches or times, and no iteration."""
        return self.last_iteration >= 0 or not (len(self.batches) or self.results)

    @property
    def cause(self) -> str:
        """Why the run crashed: its first fatal message, else the signal; else an empty text."""
        lines = self.of_kind("fatal") or self.of_kind("signal")
        return next((e.text for e in lines if not e.text.startswith("*** Aborted")), lines[0].text if lines else "")

    @property
    def state(self) -> str:
        """done, stopped, crashed or unfinished (still running, or ended without a message)."""
        if self.of_kind("fatal", "signal"):
            return "crashed"
        if self.of_kind("stopped"):
            return "stopped"
        return "done" if self.of_kind("done") or self.results else "unfinished"
