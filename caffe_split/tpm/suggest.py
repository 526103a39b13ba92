"""Which window to watch: the one of a training in which the loss falls fastest."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.tpm.trust import least_steps
from caffe_split.trainlog.model import TrainingLog

# How many displays of the loss a window needs for a slope, and how many samples are suggested for it.
DISPLAYS = 4
_SAMPLES = 100
# The fewest steps over which TPM means something for 3x3 kernels on one channel, at the usual momentum.
_LEAST_STEPS = least_steps(1, 0.9, 9)


@dataclass(frozen=True)
class Suggestion:
    """A window [start, stop] of iterations, how far the train loss falls in it, and an interval to sample it at."""

    start: int
    stop: int
    fall: float
    interval: int


def suggest_windows(log: TrainingLog, length: int | None = None, count: int = 3) -> list[Suggestion]:
    """The `count` windows of `length` iterations in which the train loss falls fastest.

    `length` None: a tenth of the training; more if a slope needs more displays, or if TPM needs more steps and the
    training has them.

    Best first; they do not overlap, and the loss falls in each. The fall is that of the least-squares line
    through the displayed loss, after a running median of 5 that removes single outliers. Raises
    `CaffeSplitError` when the log has too few displays, or the loss falls nowhere.
    """
    table = log.table("displays")
    if "loss" not in table.names:
        raise CaffeSplitError(f"{log.path}: no displayed loss in it; give the log of a training with `display: N`.")
    finite = np.isfinite(table["loss"])
    iteration, loss = table.iteration[finite], _running_median(table["loss"][finite])
    length, least = _usual_length(iteration) if length is None else (length, 0)
    ends = np.searchsorted(iteration, iteration + length, side="right")
    reach = iteration[ends - 1] - iteration
    enough = np.flatnonzero((ends - np.arange(len(ends)) >= DISPLAYS) & (reach >= 0.75 * length))
    if (reach[enough] >= least).any():
        enough = enough[reach[enough] >= least]
    if not finite.all() and len(iteration) < DISPLAYS:
        raise CaffeSplitError(
            f"{log.path}: only {len(iteration)} of its {len(finite)} displays have a loss that is a number; {DISPLAYS} "
            "are needed."
        )
    if not len(enough):
        last = int(iteration[-1] - iteration[0]) if len(iteration) else 0
        longer = "a longer --length, or train with a smaller `display`"
        raise CaffeSplitError(
            f"{log.path}: no window of {length} iterations has {DISPLAYS} displays of the loss ({len(iteration)} in "
            f"all). Choose {'a shorter --length' if length > last else longer}."
        )
    falls = _falls(iteration, loss, enough, ends[enough])
    found: list[Suggestion] = []
    for place in np.argsort(-falls, kind="stable"):
        start, stop = int(iteration[enough[place]]), int(iteration[ends[enough[place]] - 1])
        fall = float(falls[place])
        if fall > 0 and len(found) < count and all(stop <= s.start or start >= s.stop for s in found):
            found.append(Suggestion(start, stop, fall, max(1, (stop - start) // _SAMPLES)))
    if not found:
        raise CaffeSplitError(f"{log.path}: the loss falls in no window of {length} iterations.")
    return found


def fall_within(log: TrainingLog, start: int, stop: int) -> float:
    """How far the train loss falls from iteration `start` to `stop`, as in `suggest_windows`.

    NaN where the log shows fewer than 4 finite losses in that window.
    """
    table = log.table("displays")
    if "loss" not in table.names:
        return float("nan")
    finite = np.isfinite(table["loss"])
    iteration, loss = table.iteration[finite], _running_median(table["loss"][finite])
    first, end = np.searchsorted(iteration, start), np.searchsorted(iteration, stop, side="right")
    if end - first < DISPLAYS:
        return float("nan")
    return float(_falls(iteration, loss, np.array([first]), np.array([end]))[0])


def suggestion_lines(found: Sequence[Suggestion], given: bool = False) -> list[str]:
    """The suggestions as text, and the command that watches the first; `given` if the user chose their length."""
    lines = []
    for place, window in enumerate(found):
        rank = "the loss falls fastest" if place == 0 else "then"
        size = window.stop - window.start
        lines.append(f"{window.start}:{window.stop}  {rank}: by {window.fall:.4g} in {size} iterations")
    best = found[0]
    steps = (best.stop - best.start) // best.interval
    if steps < _LEAST_STEPS:
        longer = "give a longer --length" if given else "train longer"
        lines.append(
            f"note: this window has N = {steps} steps; for 3x3 kernels on one channel TPM means something from "
            f"N = {_LEAST_STEPS} on: {longer}"
        )
    return [*lines, f"caffe-split instrument NET --window {best.start}:{best.stop} --interval {best.interval}"]


def _usual_length(iteration: np.ndarray) -> tuple[int, int]:
    """How long a window is where nobody says, and how long it is at least: in iterations, of a log's displays."""
    shown = np.unique(iteration)  # Twice each where several processes wrote one log.
    whole = int(shown[-1] - shown[0]) if len(shown) else 0
    if len(shown) < DISPLAYS:
        return whole // 10, 0
    apart = int(np.median(np.diff(shown)))
    steps = -(-_LEAST_STEPS // apart) * apart
    length = max(whole // 10, (DISPLAYS - 1) * apart, steps if steps <= whole else 0)
    return length, min(_LEAST_STEPS, whole)


def _falls(iteration: np.ndarray, loss: np.ndarray, first: np.ndarray, end: np.ndarray) -> np.ndarray:
    """How far the least-squares line through the displays [first, end) falls from the first to the last of them."""
    x, y = iteration - iteration.mean(), loss - loss.mean()

    def total(values: np.ndarray) -> np.ndarray:
        sums = np.concatenate([[0.0], np.cumsum(values)])
        inside: np.ndarray = sums[end] - sums[first]
        return inside

    size = end - first
    slope = (size * total(x * y) - total(x) * total(y)) / (size * total(x * x) - total(x) ** 2)
    fall: np.ndarray = -slope * (x[end - 1] - x[first])
    return fall


def _running_median(values: np.ndarray, width: int = 5) -> np.ndarray:
    if len(values) < width:
        return values
    padded = np.pad(values, width // 2, mode="edge")
    median: np.ndarray = np.median(np.lib.stride_tricks.sliding_window_view(padded, width), axis=1)
    return median
