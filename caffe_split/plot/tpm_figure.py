"""Pictures of TPM: a histogram per layer on common bins, TPM over windows, TPM over iterations as logged."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from caffe_split.plot.figure import COLOURS, STYLES
from caffe_split.plot.words import label, plain
from caffe_split.tpm.from_log import Printed
from caffe_split.tpm.scores import LayerScores, null_tpm

# The ten bins of the entropy are too wide to show much; each is divided into five.
_BINS = np.linspace(0, 1, 51)
_ACROSS = 5
_NULL = {"color": "#D55E00", "linewidth": 1.2, "linestyle": (0, (3, 2))}
# With more names than this a legend is longer than the picture.
_MOST_NAMES = 28
# Characters of a title of 8 points per inch.
_CHARACTERS = 14


def draw_scores(figure: Any, windows: Sequence[Sequence[LayerScores]], momentum: float) -> None:
    """One histogram of the kernels' TPM per layer that moved, in the last window; above, if several, all windows.

    windows: the layers' scores per window, oldest first. momentum: of the solver, for the null model.
    """
    last = [score for score in windows[-1] if not score.frozen]
    several = len(windows) > 1
    if not last:
        figure.set_size_inches(6, 2)
        figure.text(0.5, 0.5, "no layer moved in this window", ha="center", va="center", color="0.4")
        return
    across = min(_ACROSS, len(last))
    rows = math.ceil(len(last) / across)
    heights = [1.35 * rows + 0.5] if not several else [3.2, 1.35 * rows + 0.5]
    width = max(5.0, 2.1 * across)
    figure.set_size_inches(width, sum(heights) + 0.4)
    parts = figure.subfigures(len(heights), 1, height_ratios=heights, squeeze=False)[:, 0]
    if several:
        _draw_windows(parts[0], windows, momentum)
    _draw_histograms(parts[-1], last, (rows, across), momentum, width)


def _draw_histograms(
    figure: Any, scores: Sequence[LayerScores], grid: tuple[int, int], momentum: float, width: float
) -> None:
    first, (rows, across) = scores[0], grid
    null = null_tpm(first.steps, first.interval, momentum)
    highest = max(float(np.nanmax(score.tpm)) for score in scores)
    limit = min(1.0, max(math.ceil(10 * max(highest, null) + 0.2) / 10, 0.2))
    axes = figure.subplots(rows, across, sharex=True, squeeze=False)
    for axis, score in zip(axes.flat, scores):
        moving = score.tpm[~np.isnan(score.tpm)]
        axis.hist(moving, bins=_BINS, color="#0072B2")
        axis.axvline(null, **_NULL)
        frozen = f", {len(score.tpm) - len(moving)} frozen" if len(moving) < len(score.tpm) else ""
        axis.set_title(f"{plain(score.layer)}\nentropy {score.entropy:.2f}{frozen}", fontsize=7, linespacing=1.1)
        axis.set_xlim(0, limit)
        axis.set_xticks(np.arange(0, limit + 0.01, 0.1 if limit <= 0.5 else 0.2))
        axis.tick_params(labelsize=6)
        axis.yaxis.get_major_locator().set_params(integer=True, nbins=3)
        axis.spines[["top", "right"]].set_visible(False)
    for axis in list(axes.flat)[len(scores) :]:
        axis.set_visible(False)
    for column in range(across):
        lowest = max(row for row in range(rows) if row * across + column < len(scores))
        axes[lowest, column].tick_params(labelbottom=True)
    title = (
        f"TPM of the kernels, iterations {first.start} to {first.stop} (N = {first.steps} steps of {first.interval}, "
        f"momentum {momentum:g}); dashed: pure noise, {null:.3f}"
    )
    figure.suptitle(textwrap.fill(title, int(width * _CHARACTERS)), fontsize=8)
    figure.supxlabel("TPM", fontsize=8)
    figure.supylabel("kernels", fontsize=8)


def _draw_windows(figure: Any, windows: Sequence[Sequence[LayerScores]], momentum: float) -> None:
    axis = figure.subplots()
    names = list(dict.fromkeys(score.layer for group in windows for score in group if not score.frozen))
    for place, name in enumerate(names):
        points = [
            ((score.start + score.stop) / 2, score.layer_tpm)
            for group in windows
            for score in group
            if score.layer == name
        ]
        x, y = zip(*sorted(points))
        axis.plot(x, y, marker="o", markersize=3, linewidth=1.2, label=label(name), **_line(place))
    nulls = sorted(
        ((group[0].start + group[0].stop) / 2, null_tpm(group[0].steps, group[0].interval, momentum))
        for group in windows
    )
    axis.plot(*zip(*nulls), label="pure noise", **_NULL)
    _finish(figure, axis, len(names), "iteration (middle of the window)", "TPM of the layer")


def draw_printed(figure: Any, layers: Sequence[Printed]) -> None:
    """TPM over iterations, one line per layer, as the layers printed it; dashed: what pure noise would give."""
    figure.set_size_inches(9, 5)
    axis = figure.subplots()
    for place, layer in enumerate(layers):
        axis.plot(layer.iteration, layer.tpm, linewidth=1.2, label=label(layer.layer), **_line(place))
    null = layers[0].null()
    if not np.isnan(null).all():
        axis.plot(layers[0].iteration, null, label="pure noise", **_NULL)
    _finish(figure, axis, len(layers), "iteration", "TPM of the layer, since the window's start")


def _line(place: int) -> dict[str, Any]:
    # Vermilion is the colour of the null model.
    colours = [colour for colour in COLOURS if colour != _NULL["color"]]
    return {"color": colours[place % len(colours)], "linestyle": STYLES[place // len(colours) % len(STYLES)]}


def _finish(figure: Any, axis: Any, names: int, x: str, y: str) -> None:
    axis.set_xlabel(x, fontsize=8)
    axis.set_ylabel(y, fontsize=8)
    axis.set_ylim(0, None)
    axis.tick_params(labelsize=7)
    axis.grid(True, color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    if names <= _MOST_NAMES:
        figure.legend(loc="outside right upper", frameon=False, fontsize=6.5, ncols=1 + names // 16)


def draw_runs(figure: Any, runs: Mapping[str, Sequence[Sequence[LayerScores]]], momentum: float) -> None:
    """Trainings compared: mean TPM of the layers over the windows, and TPM of all kernels in the last window.

    runs: name -> the layers' scores per window, oldest first. momentum: of the solvers, for the null model.
    """
    figure.set_size_inches(9, 3.6)
    over, last = figure.subplots(1, 2)
    for place, (name, windows) in enumerate(runs.items()):
        x = [(group[0].start + group[0].stop) / 2 for group in windows]
        y = [np.mean([score.layer_tpm for score in group if not score.frozen]) for group in windows]
        over.plot(x, y, marker="o", markersize=3, linewidth=1.2, label=label(name), **_line(place))
        kernels = np.concatenate([score.tpm[~np.isnan(score.tpm)] for score in windows[-1]])
        last.hist(kernels, bins=_BINS, histtype="step", linewidth=1.4, label=label(name), **_line(place))
    groups = next(iter(runs.values()))
    nulls = [null_tpm(group[0].steps, group[0].interval, momentum) for group in groups]
    over.plot([(group[0].start + group[0].stop) / 2 for group in groups], nulls, label="pure noise", **_NULL)
    last.axvline(nulls[-1], **_NULL)
    _finish(figure, over, _MOST_NAMES + 1, "iteration (middle of the window)", "TPM, mean of the layers")
    final = groups[-1][0]
    _finish(figure, last, _MOST_NAMES + 1, f"TPM of the kernels, iterations {final.start} to {final.stop}", "kernels")
    over.legend(fontsize=7, frameon=False, loc="lower right")
