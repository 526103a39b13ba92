"""The picture of gains: the paired differences of runs to others, with mean, intervals and cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from caffe_split.plot.pairs import point
from caffe_split.plot.words import plain

# The axis reaches so many points above and below zero, so that a difference of one image does not look large.
_LEAST = 0.1
# A cost within this of the baseline's is the baseline's.
_SAME = 1e-6


@dataclass(frozen=True)
class Gain:
    """A run's differences to the run `control`, or to another that it is compared with, in points: seed -> difference.

    `interval` is that of their mean by itself, `together` the one that is right together with all others (both NaN of
    a single seed). `cost` is the run's, folded where it is, as a multiple of the baseline's; None where not known.
    """

    name: str
    control: str
    points: Mapping[str, float]
    interval: tuple[float, float]
    together: tuple[float, float]
    cost: float | None

    @property
    def mean(self) -> float:
        """The mean over the seeds."""
        return math.fsum(self.points.values()) / len(self.points)


def draw_gains(figure: Any, gains: Sequence[Gain]) -> None:
    """Draw on an empty matplotlib figure: a column per run, a coloured point per seed, mean and intervals beside them.

    A filled square is the mean of a run at the baseline's cost, an open one that of a run that costs more.
    """
    width = max(5.0, 1.15 * len(gains) + 1.5)
    figure.set_size_inches(width, 4.8)
    axis = figure.subplots()
    axis.axhline(0, color="0.5", linewidth=1.0)
    seeds = list(dict.fromkeys(seed for gain in gains for seed in gain.points))
    for place, seed in enumerate(seeds):
        points = [(x - 0.14, gain.points[seed]) for x, gain in enumerate(gains) if seed in gain.points]
        axis.scatter(*zip(*points), s=18, alpha=0.75, label=f"seed {seed}", **point(place))
    for x, gain in enumerate(gains):
        _interval(axis, x + 0.14, gain)
    axis.set_xticks(range(len(gains)), [_under(gain) for gain in gains], rotation=25, ha="right", fontsize=8)
    low, high = axis.get_ylim()
    axis.set_ylim(min(low, -_LEAST), max(high, _LEAST))
    axis.set_xlim(-0.5, max(len(gains), 1) - 0.5)
    axis.set_ylabel("difference in final test accuracy, points")
    axis.grid(True, axis="y", color="0.92", linewidth=0.8)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    for filled, words in ((True, "mean, at the baseline's cost"), (False, "mean, at a higher cost")):
        axis.plot([], [], **_square(filled), label=words)
    if not all(math.isnan(gain.interval[0]) for gain in gains):
        axis.plot([], [], color="0.2", linewidth=2.2, label="95 %")
        axis.plot([], [], color="0.2", linewidth=0.8, label="95 %, all together")
    figure.legend(loc="outside upper center", ncols=int(width // 2), frameon=False, fontsize=8)


def _interval(axis: Any, x: float, gain: Gain) -> None:
    for (low, high), width in ((gain.together, 0.8), (gain.interval, 2.2)):
        if not math.isnan(low):
            axis.plot([x, x], [low, high], color="0.2", linewidth=width, zorder=2)
    axis.plot([x], [gain.mean], **_square(_is_cheap(gain)), zorder=3)
    axis.annotate(
        f"{gain.mean:+.2f}", (x, gain.mean), xytext=(6, -3), textcoords="offset points", fontsize=8, color="0.2"
    )


def _square(filled: bool) -> dict[str, Any]:
    face = "0.2" if filled else "white"
    return {"color": "0.2", "linestyle": "", "marker": "s", "markersize": 6, "markerfacecolor": face}


def _is_cheap(gain: Gain) -> bool:
    return gain.cost is not None and gain.cost <= 1 + _SAME


def _under(gain: Gain) -> str:
    """What stands under the run's column: its name, its control, and its cost where that is not the baseline's."""
    words = plain(f"{gain.name}\nless {gain.control}")
    if _is_cheap(gain):
        return words
    return words + ("\ncost not known" if gain.cost is None else f"\n{gain.cost:.2f} x the multiply-adds")
