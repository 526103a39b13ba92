"""The picture of some training logs: train loss, test accuracy and test loss over shared axes."""

from __future__ import annotations

from typing import Any, Union

import numpy as np

from caffe_split.plot.labels import place_labels
from caffe_split.plot.series import Curve, Curves, mark, moving_average, thin
from caffe_split.plot.words import label

# The palette of Okabe and Ito, whose colours differ for every kind of colour vision, dark ones first; the first run,
# the baseline, is black. Line styles mark further outputs, and runs for which there is no further colour.
COLOURS = ("#000000", "#D55E00", "#0072B2", "#009E73", "#CC79A7", "#E69F00", "#56B4E9")
Style = Union[str, tuple[float, tuple[float, ...]]]
STYLES: tuple[Style, ...] = (
    "-",
    "--",
    ":",
    "-.",
    (0, (8, 1)),
    (0, (1, 3)),
    (0, (3, 1)),
    (0, (5, 1, 1, 1, 1, 1)),
    (0, (2, 4)),
    (0, (9, 2, 3, 2)),
)

# More names than this stand beside the axes, at most this many in each column.
MOST_ABOVE, MOST_BESIDE = 12, 45
# About this many values show where most of them lie.
SAMPLE = 20_000


def draw(figure: Any, curves: Curves, average: int = 1, log_scale: bool = False) -> None:
    """Draw on a matplotlib figure, which is cleared first.

    average: the number of displays over which the train loss is averaged. log_scale: for the losses.
    """
    figure.clear()
    panels = [
        (title, kind, lowest)
        for title, kind, lowest in (
            ("train loss", curves.train, True),
            ("test accuracy", curves.accuracy, False),
            ("test loss", curves.loss, True),
        )
        if kind
    ]
    if not panels:
        figure.text(0.5, 0.5, "no iteration yet", ha="center", va="center", color="0.4")
        return
    axes = figure.subplots(len(panels), 1, sharex=True, squeeze=False)[:, 0]
    for axis, (title, kind, lowest) in zip(axes, panels):
        _panel(axis, kind, average if kind is curves.train else 1)
        axis.set_ylabel(title if kind is not curves.train or average == 1 else f"{title}\n(mean of {average})")
        axis.grid(True, color="0.92", linewidth=0.8)
        axis.set_axisbelow(True)
        axis.spines[["top", "right"]].set_visible(False)
        if log_scale and lowest:
            _log_axis(axis, kind, average if kind is curves.train else 1)
        else:
            axis.ticklabel_format(axis="y", useOffset=False)
        room = 0.08 if kind is curves.train else 0.22  # for the labels of the best
        axis.margins(x=0.02, y=room)
        if not (log_scale and lowest):
            _zoom(axis, kind, lowest, room)
    axes[-1].set_xlabel(curves.x_label)
    _mark_steps(axes, curves)
    _legend(figure, curves)
    figure.canvas.draw()  # places the axes, which the labels need
    for axis, (_, kind, lowest) in zip(axes, panels):
        if kind is not curves.train:
            _mark_best(axis, kind, lowest)


def colour(run: int) -> str:
    """The colour of the run at this position."""
    return COLOURS[run % len(COLOURS)]


def _style(group: int) -> Style:
    return STYLES[group % len(STYLES)]


def _styles(kind: list[Curve]) -> dict[tuple[int, str], Style]:
    """Line style by (run, output): outputs of one run differ, and so do runs of one colour."""
    outputs = {output: place for place, output in enumerate(dict.fromkeys(curve.output for curve in kind))}
    groups = max((curve.run for curve in kind), default=0) // len(COLOURS) + 1
    return {(c.run, c.output): _style(outputs[c.output] * groups + c.run // len(COLOURS)) for c in kind}


def _panel(axis: Any, kind: list[Curve], average: int) -> None:
    styles = _styles(kind)
    for curve in kind:
        drawn = moving_average(curve.y, average) if average > 1 else curve.y
        drawn = np.where(np.isfinite(drawn), drawn, np.nan)
        if average > 1:
            raw = np.where(np.isfinite(curve.y), curve.y, np.nan)
            axis.plot(*thin(curve.x, raw), color=colour(curve.run), alpha=0.22, linewidth=0.8, zorder=1)
        marker = "." if len(curve.x) <= 40 else None
        axis.plot(
            *thin(curve.x, drawn),
            color=colour(curve.run),
            linestyle=styles[curve.run, curve.output],
            linewidth=1.4,
            marker=marker,
            markersize=4,
            zorder=2,
        )
        if curve.earlier is not None:  # a star may stand there
            axis.plot(*thin(*curve.earlier), ".", color=colour(curve.run), alpha=0.3, markersize=3, zorder=1)
    outputs = list(dict.fromkeys(curve.output for curve in kind))
    if len(outputs) > 1:
        first = min(curve.run for curve in kind)
        for output in outputs:
            style = next(s for (run, name), s in styles.items() if name == output)
            axis.plot([], [], color=colour(first), linestyle=style, linewidth=1.2, label=label(output))
        axis.legend(fontsize=7, frameon=False, loc="best", handlelength=2.4)


def _zoom(axis: Any, kind: list[Curve], lowest: bool, room: float) -> None:
    """If the first values or a few outliers would flatten all others, show only the others, and say so."""
    filled = [curve for curve in kind if len(curve.x)]  # in a resumed log all values of an output may be replaced
    if not filled:
        return
    start, end = min(curve.x.min() for curve in filled), max(curve.x.max() for curve in filled)
    late = [curve.y[(curve.x >= start + (end - start) / 20) & np.isfinite(curve.y)] for curve in kind]
    shown = np.concatenate(late)
    if len(shown) < 8:
        return
    low, high = np.quantile(shown[:: 1 + len(shown) // SAMPLE], [0.01, 0.99])
    for curve in kind:
        star = mark(curve, lowest)
        if star is not None:
            low, high = min(low, star[1]), max(high, star[1])
    whole = axis.dataLim
    if whole.y1 - whole.y0 > 4 * (high - low) > 0:
        axis.set_ylim(low - room * (high - low), high + room * (high - low))
        axis.text(
            0.995,
            0.03 if not lowest else 0.93,
            f"some values outside: {whole.y0:.3g} to {whole.y1:.3g} in all",
            transform=axis.transAxes,
            ha="right",
            fontsize=7,
            color="0.45",
        )


def _log_axis(axis: Any, kind: list[Curve], average: int) -> None:
    """A logarithmic axis around the averages: single displays near zero would stretch it over decades."""
    drawn = np.concatenate([moving_average(curve.y, average) for curve in kind])
    drawn = drawn[np.isfinite(drawn) & (drawn > 0)]
    if len(drawn):
        axis.set_yscale("log")
        axis.set_ylim(drawn.min() / 2, drawn.max() * 2)


def _mark_steps(axes: Any, curves: Curves) -> None:
    everywhere = len({curve.run for curve in curves.train or curves.accuracy or curves.loss})
    texts = []
    for step in sorted(curves.steps, key=lambda s: s.x):
        shared = len(step.runs) == everywhere
        shade = "0.45" if shared else colour(step.runs[0])
        for axis in axes if shared else axes[:1]:
            axis.axvline(step.x, color=shade, linewidth=0.8, linestyle=(0, (1, 2)), zorder=0.6)
        texts.append((step.x, f"lr {step.rate:g}", shade))
    for x, text, shade in _apart(axes[0], texts):
        axes[0].annotate(
            text,
            (x, 1.0),
            xycoords=("data", "axes fraction"),
            xytext=(2, 2),
            textcoords="offset points",
            fontsize=7,
            color=shade,
            annotation_clip=True,
        )


def _apart(axis: Any, texts: list[tuple[float, str, str]]) -> list[tuple[float, str, str]]:
    """The texts that fit beside one another along the axis. Of the other steps only the lines are drawn."""
    low, high = axis.get_xlim()
    kept: list[tuple[float, str, str]] = []
    for entry in texts:
        if not kept or entry[0] - kept[-1][0] > (high - low) * 0.011 * (len(kept[-1][1]) + 1):
            kept.append(entry)
    return kept


def _mark_best(axis: Any, kind: list[Curve], lowest: bool) -> None:
    points = []
    for curve in kind:
        star = mark(curve, lowest)
        if star is None:
            continue
        x, y = star
        axis.plot(
            [x],
            [y],
            marker="*",
            markersize=9,
            color=colour(curve.run),
            markeredgecolor="white",
            markeredgewidth=0.6,
            linestyle="none",
            zorder=4,
        )
        points.append((x, y, f"{y:#.4g}", colour(curve.run)))
    place_labels(axis, points, below=lowest)


def _legend(figure: Any, curves: Curves) -> None:
    from matplotlib.lines import Line2D

    handles = []
    names = [f"{name} ({trouble})" if trouble else name for name, trouble in zip(curves.names, curves.troubles)]
    for run, name in enumerate(names):
        style = _style(run // len(COLOURS))
        handles.append(Line2D([], [], color=colour(run), linestyle=style, linewidth=2, label=label(name)))
    longest = max(map(len, names))
    columns = max(1, min(len(handles), 96 // (longest + 8)))
    # Of many runs the names stand beside the axes, where they take no height from them.
    many = len(handles) > MOST_ABOVE
    figure.legend(
        handles=handles,
        loc="outside right upper" if many else "outside upper center",
        ncols=-(-len(handles) // MOST_BESIDE) if many else columns,
        frameon=False,
        fontsize=7 if many else 9,
        handlelength=4 if many else 2,
    )
