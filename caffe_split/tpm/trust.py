"""Whether TPM carries information: from which number of steps on, and whether kernels differ at all."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

import numpy as np

from caffe_split.errors import counted
from caffe_split.tpm.scores import LayerScores, by_window, null_tpm

# How many spreads of pure noise have to lie between noise and a straight line.
_SPREADS = 3
_MOST_STEPS = 10_000


def null_spread(steps: int, interval: int, momentum: float, weights: int) -> float:
    """Standard deviation of the TPM of pure noise in a kernel of `weights` weights; see `scores.z_scores`."""
    return null_tpm(steps, interval, momentum) / math.sqrt(2 * max(weights, 1))


def least_steps(interval: int, momentum: float, weights: int) -> int:
    """The smallest N at which pure noise lies three of its spreads below 1, the TPM of a straight line.

    >>> least_steps(1000, 0.9, 27), least_steps(1, 0.9, 27)
    (2, 24)
    """
    for steps in range(2, _MOST_STEPS):
        null = null_tpm(steps, interval, momentum)
        if 1 - null >= _SPREADS * null_spread(steps, interval, momentum, weights):
            return steps
    return _MOST_STEPS


def kernels_alike(score: LayerScores) -> bool:
    """Whether all kernels of a layer have the same TPM, so that it does not distinguish them."""
    moving = score.tpm[~np.isnan(score.tpm)]
    return len(moving) > 1 and len(moving) == len(score.tpm) and float(np.ptp(moving)) < 1e-6


def longer_windows(iterations: Sequence[int], least: int, most: int = 3) -> list[tuple[int, int, int]]:
    """Windows (start, stop, interval) of at least `least` steps that snapshots of `iterations` (ascending) allow.

    They are the longest stretches of evenly spaced snapshots, the one with the most steps first.

    >>> longer_windows([0, 10, 20, 30, 50, 70], 2)
    [(0, 30, 10), (30, 70, 20)]
    """
    found: list[tuple[int, int, int]] = []
    start = 0
    while start + 1 < len(iterations):
        interval, end = iterations[start + 1] - iterations[start], start + 1
        while end + 1 < len(iterations) and iterations[end + 1] - iterations[end] == interval:
            end += 1
        if end - start >= least:
            found.append((iterations[start], iterations[end], interval))
        start = end
    return sorted(found, key=lambda window: (window[0] - window[1]) // window[2])[:most]


def warnings(
    scores: Sequence[LayerScores], momentum: float, snapshots: Sequence[int] = (), chooses: bool = True
) -> list[str]:
    """What is to be known before anything is chosen by these scores; `snapshots` are the iterations that have one."""
    if abs(momentum) >= 1:
        return [_no_null(momentum)]
    lines = []
    for group in by_window(scores):
        first = group[0]
        weights = min(score.num_weights // score.num_output for score in group)
        least = least_steps(first.interval, momentum, weights)
        window = f"the window {first.start}:{first.stop} has N = {counted(first.steps, 'step')}"
        if first.steps == 1:
            lines.append(
                f"{window}: over one step TPM is 1 for every kernel, however it moved. TPM means something from "
                f"N = {least} on. {_advice(snapshots, least)}"
            )
        elif first.steps < least:
            null = null_tpm(first.steps, first.interval, momentum)
            spread = null_spread(first.steps, first.interval, momentum, weights)
            lines.append(
                f"{window} of {first.interval}: pure noise has a TPM of {null:.2f} +- {spread:.2f} there, too near to "
                f"1 to distinguish kernels. TPM means something from N = {least} on. {_advice(snapshots, least)}"
            )
        alike = [score.layer for score in group if kernels_alike(score)]
        if alike and first.steps > 1:
            lines.append(
                f"in the window {first.start}:{first.stop} all kernels of {', '.join(alike)} have the same TPM: it "
                "does not say which are fast; take a window in which the net still learns"
            )
        lines += _one_bin(group) if chooses else []
    return lines


def short_windows(
    windows: Sequence[tuple[int, int]], interval: int, momentum: float, shapes: Iterable[Sequence[int]]
) -> list[str]:
    """What is to be known of windows before they are measured; `shapes` are those of the weights."""
    if abs(momentum) >= 1:
        return [_no_null(momentum)]
    weights = min((math.prod(shape[1:]) for shape in shapes), default=1)
    least = least_steps(interval, momentum, weights)
    return [
        f"the window {start}:{stop} has N = {(stop - start) // interval} steps of {interval}; TPM means something from "
        f"N = {least} on: choose a longer window{' or a smaller interval' if interval > 1 else ''}"
        for start, stop in windows
        if (stop - start) // interval < least
    ]


def _no_null(momentum: float) -> str:
    return (
        f"with momentum {momentum:g} a kernel keeps every push for good: pure noise has a TPM of 1, too, and TPM tells "
        "nothing. Is the solver's momentum meant so? It lies in [0, 1)"
    )


def _one_bin(group: Sequence[LayerScores]) -> list[str]:
    """Entropies that are all 0: the order of the layers by entropy is the net's own."""
    moving = [score for score in group if not score.frozen]
    if len(moving) < 2 or any(score.entropy for score in moving) or group[0].steps == 1:
        return []
    return [
        f"the TPM entropy of all layers in the window {group[0].start}:{group[0].stop} is 0: it does not say which "
        "layers to split; name them (--layers), or take a window in which the net still learns"
    ]


def _advice(snapshots: Sequence[int], least: int) -> str:
    """How to get a window with more steps."""
    windows = longer_windows(sorted(snapshots), least)
    if windows:
        allowed = " or ".join(
            f"--window {start}:{stop} (N = {(stop - start) // interval})" for start, stop, interval in windows
        )
        return f"The snapshots at hand allow {allowed}"
    return f"The snapshots at hand allow no such window: train with TPM layers (instrument), or {least + 1} snapshots"
