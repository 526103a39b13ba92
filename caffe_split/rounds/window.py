"""Where a round splits: the iteration, and the window in which TPM is measured before it."""

from __future__ import annotations

import math
from dataclasses import dataclass, replace

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.training import Training
from caffe_split.rounds.options import MultiSplitOptions
from caffe_split.tpm.attach import instrument
from caffe_split.tpm.layers import remove_watchers, watchers, windows_of
from caffe_split.tpm.suggest import DISPLAYS, fall_within
from caffe_split.trainlog.model import TrainingLog

# A window has about this many samples; one of fewer iterations is sampled at each of them.
SAMPLES = 100
# Without a choice the training is divided into this many windows.
PARTS = 10
# A given split looks back over this part of the iterations before it, as 40,000 to 50,000 of the ResNet-20 study.
SHARE = 5


@dataclass(frozen=True)
class Watch:
    """When the baseline's TPM layers sample: every `interval` iterations within the windows (start, stop).

    Snapshots are written every `snapshot` iterations, so that there is one where a round may split: at iteration
    `split`, or, where that is None, at the end of each window.
    """

    windows: tuple[tuple[int, int], ...]
    interval: int
    snapshot: int
    split: int | None = None

    def watching(self, training: Training) -> Training:
        """The training with TPM layers for these windows; TPM layers of its own for others are taken out."""
        own = watchers(training.net).values()
        if own and all(set(self.windows) <= set(windows_of(each).pairs) for each in own):
            return training
        net = training.net.copy()
        remove_watchers(net)
        return instrument(replace(training, net=net), self.windows, interval=self.interval).training


def watch_of(options: MultiSplitOptions, solver: prototxt.Document) -> Watch:
    """The windows to sample. Raises `CaffeSplitError` for a choice that does not lie in the training."""
    end, every = int(solver.get("max_iter", 0)), int(solver.get("snapshot", 0))
    at = options.iteration if options.iteration is not None else (options.window or (0, None))[1]
    if at is None:
        display = int(solver.get("display", 0))
        if not 0 < (DISPLAYS - 1) * display <= end:
            raise CaffeSplitError(
                f"{solver.filename}: display is {display}, and the split is put where the displayed loss falls fastest,"
                f" in a window of {DISPLAYS} displays or more; max_iter is {end}. Give --iter N, or a smaller display."
            )
        length = max(end // PARTS, (DISPLAYS - 1) * display)
        if every and every <= length and length // every * every >= (DISPLAYS - 1) * display:
            length = length // every * every
        windows = tuple((start, start + length) for start in range(0, end - length + 1, length))
        if options.derive.schedule == "continue":
            windows = tuple(window for window in windows if window[1] < end)
            if not windows:
                raise CaffeSplitError(
                    f"{solver.filename}: a window of {length} iterations ends with the training, so that no schedule "
                    "is left to continue. Give --iter N, or a smaller display."
                )
        return Watch(windows, max(1, length // SAMPLES), length if not every or length % every else every)
    if not 0 < at < end:
        raise CaffeSplitError(
            f"{solver.filename}: the split at {at} is not inside the training, which ends at max_iter {end}. Choose an "
            "earlier iteration; to split what the whole training has learnt, --weights W --choose-by snip --partition "
            "score:snip, W being its last caffemodel."
        )
    start, stop = options.window or (at - max(at // SHARE, min(at, SAMPLES)), at)
    return Watch(((start, stop),), max(1, (stop - start) // SAMPLES), at if not every or at % every else every, at)


def fastest(log: TrainingLog, watch: Watch) -> tuple[int, int]:
    """The window in which the displayed loss falls fastest. Raises `CaffeSplitError` where it falls in none."""
    falls = {window: fall_within(log, *window) for window in watch.windows}
    known = {window: fall for window, fall in falls.items() if not math.isnan(fall)}
    best = max(known, key=lambda window: known[window], default=None)
    if best is None or known[best] <= 0:
        raise CaffeSplitError(
            f"{log.path}: the displayed loss falls in no window of {watch.windows[0][1]} iterations, or has fewer than "
            "4 displays in each; give --iter N, or a smaller display."
        )
    return best
