"""How far a running training is, as a value and as a line of text."""

from __future__ import annotations

import math
import os
import re
from dataclasses import dataclass

from caffe_split.files import PathLike, open_again
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.outputs import best_of
from caffe_split.trainlog.run import Run
from caffe_split.trainlog.show import duration, number
from caffe_split.trainlog.text import Text, blocks, head

# Displays over which the speed is measured: few enough to follow a change, enough not to jump.
RECENT = 20
_MAX_ITER = re.compile(rb"^max_iter: (\d{1,15})\r?$", re.MULTILINE)
_REACH = 1 << 22  # bytes searched at each end of a log
_LINE = 64  # the line of max_iter is not longer


@dataclass(frozen=True)
class Progress:
    """The progress of a training; NaN means not known.

    iteration: -1 before the first. max_iter: 0 if not known. output: the name of the accuracy. tested: the iteration
    of its last value. speed: iterations per second. left: seconds until max_iter. trouble: see `TrainingLog.trouble`.
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
    trouble: str = ""


def progress_of(log: TrainingLog, max_iter: int, of: int | None = None) -> Progress:
    """How far the last training of the log is, and the best accuracy of all its runs, in test net `of` or the first."""
    nan = math.nan
    run = log.training
    iteration = run.last_iteration if run else -1
    speed = _speed(run) if run else nan
    net, name = log.main_output(net=of) or (0, "")
    values = log.values(name, net) if name else []
    best = best_of(values)
    last = values[-1] if values else None
    return Progress(
        iteration=iteration,
        max_iter=max_iter,
        loss=float(run.displays["loss"][-1]) if run and len(run.displays) else nan,
        rate=float(run.lr["lr"][-1]) if run and len(run.lr) else nan,
        output=name,
        accuracy=last.value if last else nan,
        best=best.value if best else nan,
        best_iteration=best.iteration if best else -1,
        tested=last.iteration if last else -1,
        speed=speed,
        trouble=log.trouble,
        left=max(0, max_iter - iteration) / speed if speed > 0 and iteration >= 0 and max_iter else nan,
    )


def max_iter_in(path: PathLike, rank: int | None = None) -> int | None:
    """The last `max_iter` that a run of the log printed, with its solver, at its start; None if none is found.

    Only the first and the last 4 MB are searched. The start of the last run is there unless it has printed more than
    that and is not the first. Of a file that is no plain text all is searched. rank: see `read_log`.
    """
    first = head(path, _REACH)
    with open_again(path) as stream:
        if stream.read(len(first)) == first:
            stream.seek(max(stream.seek(0, os.SEEK_END) - _REACH, 0))
            pieces = iter([first, stream.read()])
        else:
            # Without ranks before its lines, the filter leaves a text as it is.
            pieces = blocks(path, Text(several=True, rank=rank))
    found, before = None, b""
    for piece in pieces:
        for match in _MAX_ITER.finditer(before + piece):
            found = int(match[1])
        before = piece[-_LINE:]
    return found


def one_line(now: Progress) -> str:
    """E.g. `iteration 100/1000  loss 0.51  accuracy 0.62 (best 0.63 at 80)  12 it/s  0:01:15 left`."""
    parts = [f"iteration {max(now.iteration, 0)}" + (f"/{now.max_iter}" if now.max_iter else "")]
    if not math.isnan(now.loss):
        parts.append(f"loss {number(now.loss, 4)}")
    if not math.isnan(now.rate):
        parts.append(f"lr {number(now.rate, 3)}")
    if now.output:
        best = f"best {number(now.best, 4)} at {now.best_iteration}" if now.best_iteration >= 0 else "no best"
        parts.append(f"{now.output} {number(now.accuracy, 4)} ({best})")
    if now.trouble:
        parts.append(now.trouble)
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
