"""The picture of paired points: one column per kind of run, one line per seed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from caffe_split.plot.figure import COLOURS
from caffe_split.plot.words import plain

# Of seeds of one colour.
_MARKERS = ("o", "^", "D", "v", "P")


def point(place: int) -> dict[str, str]:
    """The colour and the marker of the seed at this position."""
    return {"color": COLOURS[place % len(COLOURS)], "marker": _MARKERS[place // len(COLOURS) % len(_MARKERS)]}


def draw_pairs(figure: Any, columns: Sequence[tuple[str, Mapping[str, float]]], label: str, digits: int = 2) -> None:
    """Draw on an empty matplotlib figure. Lines join the points of a seed; a bar with a number is a column's mean.

    columns: (name, seed -> value). label: of the values' axis. digits: decimals of the means.
    """
    figure.set_size_inches(max(5.0, 1.15 * len(columns) + 1.5), 4.2)
    axis = figure.subplots()
    seeds = list(dict.fromkeys(seed for _, values in columns for seed in values))
    for place, seed in enumerate(seeds):
        points = [(x, values[seed]) for x, (_, values) in enumerate(columns) if seed in values]
        axis.plot(
            [x for x, _ in points],
            [y for _, y in points],
            linewidth=0.9,
            markersize=4,
            alpha=0.75,
            label=f"seed {seed}",
            **point(place),
        )
    for x, (_, values) in enumerate(columns):
        if values:
            mean = sum(values.values()) / len(values)
            axis.plot([x - 0.3, x + 0.3], [mean, mean], color="0.2", linewidth=2.2, zorder=3)
            axis.annotate(
                f"{mean:.{digits}f}",
                (x + 0.1, mean),
                xytext=(0, 3),
                textcoords="offset points",
                fontsize=8,
                color="0.2",
                zorder=4,
            )
    axis.set_xticks(range(len(columns)), [plain(name) for name, _ in columns], rotation=25, ha="right")
    axis.set_xlim(-0.5, len(columns) - 0.5)
    axis.set_ylabel(label)
    axis.grid(True, axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.ticklabel_format(axis="y", useOffset=False)
    if len(seeds) > 1:
        figure.legend(loc="outside upper center", ncols=min(len(seeds), 6), frameon=False, fontsize=8)
