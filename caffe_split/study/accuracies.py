"""Test accuracies and time of a training, from its log."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.query import summarise
from caffe_split.trainlog.read import read_log


@dataclass(frozen=True)
class Accuracies:
    """Test accuracies of a log: `final` of the last test, `best` the highest, the earliest where several are equal.

    `curve` is (iteration, accuracy) of all tests, of a repeated one the last; `output` is the name of the accuracy.
    """

    output: str
    final: float
    best: float
    best_iteration: int
    curve: tuple[tuple[int, float], ...]


def accuracies(log: Path) -> Accuracies:
    """The test accuracies in a log, of its main output. Raises `CaffeSplitError` where it has none."""
    return _accuracies(read_log(log))


def _accuracies(log: TrainingLog) -> Accuracies:
    chosen = log.main_output()
    if chosen is None:
        raise CaffeSplitError(f"{log.path}: no test accuracy in it; a study compares accuracies: add an Accuracy layer")
    values = [value for value in log.values(chosen[1]) if value.net == chosen[0]]
    if not values[-1].trusted:
        raise CaffeSplitError(f"{log.path}: the loss is not finite at the end, so that its accuracy does not count")
    # A net that has not been trained yet may give no finite loss in its first test, and then an accuracy of 1.
    best = max((value for value in values if value.trusted), key=lambda value: (value.value, -value.iteration))
    curve = tuple(sorted({value.iteration: value.value for value in values}.items()))
    return Accuracies(chosen[1], values[-1].value, best.value, best.iteration, curve)


@dataclass(frozen=True)
class TrainedRun(Accuracies):
    """Accuracies with the time in training, in seconds, and the speed in iterations per second."""

    seconds: float
    speed: float


def read_trained(log: Path) -> TrainedRun:
    """Accuracies, time and speed of a training. Raises `CaffeSplitError` where it has not come to its end."""
    parsed = read_log(log)
    row = summarise([parsed])[0]
    if row.state != "done":
        raise CaffeSplitError(f"{log}: the training is {row.state}: {row.detail or 'no reason given'}")
    return TrainedRun(**vars(_accuracies(parsed)), seconds=parsed.seconds_once, speed=row.speed)


def earlier_seconds(log: Path) -> float:
    """The seconds of the starts of a training before its last one, which resumed it; 0 where there were none."""
    seconds = [run.seconds for run in read_log(log).runs[:-1]] if log.exists() else []
    return sum(each for each in seconds if not math.isnan(each))
