"""Which test values of a run count: none of those printed while its loss was not finite.

Caffe goes on when the loss has become nan, and may then report an accuracy of 1: with nan for a score no other class
has a higher one.
"""

from __future__ import annotations

import math
import re
from dataclasses import dataclass, replace

import numpy as np

from caffe_split.trainlog.columns import Table
from caffe_split.trainlog.messages import number
from caffe_split.trainlog.outputs import is_loss, is_score
from caffe_split.trainlog.run import Run

# With this line the torch engine stops a training, mostly before a display shows it.
_STOPPED = re.compile(r"Iteration (\d{1,15}): the loss is ([-\w.]+);")


@dataclass(frozen=True)
class Stretch:
    """Iterations at which the loss was not finite: from `start` to before `stop`, or on to the end (`stop` None).

    kind: nan or inf, the first that was printed. known: the last iteration before `start` with a finite loss, or -1.
    test: whether only losses of tests were not finite.
    """

    kind: str
    start: int
    stop: int | None
    known: int
    test: bool = False

    def covers(self, iteration: int) -> bool:
        """Whether the loss may have been not finite at an iteration."""
        return self.known < iteration and (self.stop is None or iteration < self.stop)

    def __str__(self) -> str:
        end = "" if self.stop is None else f" to {self.stop}"
        return f"{'test loss ' if self.test else ''}{self.kind} from iteration {self.start}{end}"


def stretches(run: Run) -> list[Stretch]:
    """Where the loss of a run was not finite: in the training, then in tests beside a training that was finite."""
    trained = _stretches(_of_training(run))
    tested = [stretch for table in run.tests.values() for stretch in _stretches(_losses(table))]
    found = []
    for stretch in trained:
        # The training's loss is printed more rarely than it may become nan: a test may show it first.
        earlier = [test.start for test in tested if stretch.known < test.start < stretch.start]
        found.append(replace(stretch, start=min(earlier, default=stretch.start)))
    alone = [test for test in tested if not any(stretch.covers(test.start) for stretch in trained)]
    return found + [replace(test, test=True) for test in alone]


def trusted(run: Run, net: int) -> np.ndarray:
    """Whether each row of the tests of `net` counts: bool (n).

    It does not where a loss in the row is not finite, where the training's loss was not, and where that became so
    before the next display and the row has no loss of its own.
    """
    table = run.tests[net]
    good, judged = np.ones(len(table), bool), np.zeros(len(table), bool)
    for loss in _losses(table):
        good[loss.rows[~np.isfinite(loss.value)]] = False
        judged[loss.rows] = True
    for stretch in _stretches(_of_training(run)):
        iteration = table.iteration
        inside = (iteration > stretch.known) & ~(judged & (iteration < stretch.start))
        if stretch.stop is not None:
            inside &= iteration < stretch.stop
        good &= ~inside
    return good


@dataclass(frozen=True, eq=False)
class _Loss:
    """A loss where it was printed. rows: of its table; iteration: int64 (m); value: float64 (m)."""

    rows: np.ndarray
    iteration: np.ndarray
    value: np.ndarray


def _losses(*tables: Table) -> list[_Loss]:
    found = []
    for table in tables:
        weights = table.weights
        for name in table.names:
            if is_loss(name, weights.get(name, 0)) or is_score(name):
                index, value = table.printed(name)
                found.append(_Loss(np.arange(len(table))[index], table.iteration[index], value))
    return found


def _of_training(run: Run) -> list[_Loss]:
    """The losses that were printed while it trained, and the one at which the engine stopped it."""
    stops = [_STOPPED.search(event.text) for event in run.of_kind("fatal")]
    last = [
        _Loss(np.zeros(0, np.int64), np.array([int(stop[1])]), np.array([number(stop[2].encode())], np.float64))
        for stop in stops
        if stop
    ]
    return _losses(run.displays, run.train) + last


def _stretches(losses: list[_Loss]) -> list[Stretch]:
    if all(np.isfinite(loss.value).all() for loss in losses):
        return []
    iteration = np.concatenate([loss.iteration for loss in losses])
    value = np.concatenate([loss.value for loss in losses])
    bad = np.unique(iteration[~np.isfinite(value)])
    fine = np.setdiff1d(iteration, bad)
    found: list[Stretch] = []
    for start in bad.tolist():
        if found and (found[-1].stop is None or start < found[-1].stop):
            continue
        at = int(np.searchsorted(fine, start))
        first = value[(iteration == start) & ~np.isfinite(value)][0]
        stop = int(fine[at]) if at < len(fine) else None
        known = int(fine[at - 1]) if at else -1
        found.append(Stretch("nan" if math.isnan(first) else "inf", start, stop, known))
    return found
