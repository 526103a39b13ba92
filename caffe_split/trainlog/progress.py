"""How far a running training is, as a value and as a line of text."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

import numpy as np

from caffe_split.files import PathLike
from caffe_split.trainlog.model import Run, TrainingLog
from caffe_split.trainlog.show import duration, number

# Displays over which the speed is measured: few enough to follow a change, enough not to jump.
RECENT = 20
_MAX_ITER = re.compile(rb"^max_iter: (\d{1,15})\r?$", re.MULTILINE)
_REACH = 1 << 22  # bytes searched at each end of a log


@dataclass(frozen=True)
class Progress:
    """The progress of a training; NaN means not known.

    iteration: -1 before the first. max_iter: 0 if not known. output: the name of the accuracy. tested: the iteration
    of its last value. speed: iterations per second. left: seconds until max_iter.
    """

    iteration: int
    max_iter: int
    loss: float
    rate: float
    output: str
    accuracy: float
    best: float
    best_iteration: int
    tested: int
    speed: float
    left: float


def progress_of(log: TrainingLog, max_iter: int) -> Progress:
    """How far the last run of the log is, and the best test accuracy of all its runs."""
    nan = math.nan
    run = log.runs[-1] if log.runs else None
    iteration = run.last_iteration if run else -1
    speed = _speed(run) if run else nan
    name, values, iterations = "", np.empty(0), np.empty(0, np.int64)
    chosen = log.main_output()
    if chosen is not None:
        net, name = chosen
        table = log.table("tests", net)
        there = np.isfinite(table[name])
        values, iterations = table[name][there], table.iteration[there]
    at = int(values.argmax()) if len(values) else -1
    return Progress(
        iteration=iteration,
        max_iter=max_iter,
        loss=float(run.displays["loss"][-1]) if run and len(run.displays) else nan,
        rate=float(run.lr["lr"][-1]) if run and len(run.lr) else nan,
        output=name,
        accuracy=float(values[-1]) if len(values) else nan,
        best=float(values[at]) if len(values) else nan,
        best_iteration=int(iterations[at]) if len(values) else -1,
        tested=int(iterations[-1]) if len(values) else -1,
        speed=speed,
        left=(max_iter - iteration) / speed if speed > 0 and iteration >= 0 and max_iter else nan,
    )


def max_iter_in(path: PathLike) -> int | None:
    """The last `max_iter` that a run of the log printed, with its solver, at its start; None if none is found.

    Only the first and the last 4 MB are searched. The start of the last run is there unless it has printed more than
    that and is not the first.
    """
    found = None
    with open(path, "rb") as stream:
        for start in (0, max(os.fstat(stream.fileno()).st_size - _REACH, 0)):
            stream.seek(start)
            for match in _MAX_ITER.finditer(stream.read(_REACH)):
                found = int(match[1])
    return found


def one_line(now: Progress) -> str:
    """E.g. `iteration 100/1000  loss 0.51  accuracy 0.62 (best 0.63 at 80)  12 it/s  0:01:15 left`."""
    parts = [f"iteration {max(now.iteration, 0)}" + (f"/{now.max_iter}" if now.max_iter else "")]
    if not math.isnan(now.loss):
        parts.append(f"loss {number(now.loss, 4)}")
    if not math.isnan(now.rate):
        parts.append(f"lr {number(now.rate, 3)}")
    if now.output:
        best = f"best {number(now.best, 4)} at {now.best_iteration}"
        parts.append(f"{now.output} {number(now.accuracy, 4)} ({best})")
    if not math.isnan(now.speed):
        parts.append(f"{number(now.speed, 3)} it/s")
    if not math.isnan(now.left):
        parts.append(f"{duration(now.left)} left")
    return "  ".join(parts)


def _speed(run: Run) -> float:
    """Iterations per second over the last displays, including the tests and snapshots between them."""
    steps, seconds = run.displays.iteration[-RECENT:], run.displays.seconds[-RECENT:]
    if len(steps) < 2 or not seconds[-1] > seconds[0]:
        return math.nan
    return float((steps[-1] - steps[0]) / (seconds[-1] - seconds[0]))
