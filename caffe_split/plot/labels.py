"""Numbers beside points without one covering another."""

from __future__ import annotations

from typing import Any

# Size of a label, in points.
FONT = 8.0
# So many numbers can still be told apart; the best of the runs beyond have their stars only.
MOST = 12
_CHARACTER = 0.6 * FONT
_LINE = 1.35 * FONT


def place_labels(axis: Any, points: list[tuple[float, float, str, str]], below: bool) -> None:
    """Write (x, y, text, colour) labels near their points, inside the axes, none over another.

    below: on the side of lower values. A label that had to move away from its point gets a thin line to it.
    """
    to_pixels = axis.transData.transform
    scale = axis.figure.dpi / 72.0
    box = axis.get_window_extent()
    taken: list[tuple[float, float, float, float]] = []
    for x, y, text, colour in sorted(points[:MOST], key=lambda p: p[1], reverse=not below):
        px, py = to_pixels((x, y))
        width, height = (len(text) * _CHARACTER + 4) * scale, _LINE * scale
        left = min(max(px - width / 2, box.x0), box.x1 - width)
        bottom = _free(left, width, height, py, box, taken, below, scale)
        taken.append((left, bottom, left + width, bottom + height))
        moved = abs(bottom + height / 2 - py) > 2.2 * height
        axis.annotate(
            text,
            (x, y),
            xytext=((left + width / 2 - px) / scale, (bottom + height / 2 - py) / scale),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=FONT,
            color=colour,
            zorder=5,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5} if moved else None,
        )


def _free(
    left: float,
    width: float,
    height: float,
    py: float,
    box: Any,
    taken: list[tuple[float, float, float, float]],
    below: bool,
    scale: float,
) -> float:
    """The free place nearest to the point, above and below it by turns; it starts on the side asked for."""
    gap = 5 * scale
    sides = (-1, 1) if below else (1, -1)
    for distance in range(40):
        for side in sides:
            bottom = py + gap + distance * height if side > 0 else py - gap - height - distance * height
            if bottom < box.y0 or bottom + height > box.y1:
                continue
            if not any(
                left < right and left + width > l and bottom < top and bottom + height > b
                for l, b, right, top in taken  # noqa: E741
            ):
                return bottom
    return py + gap
