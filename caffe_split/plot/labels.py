"""Numbers beside points, none of which covers another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

# Size of a label, in points.
FONT = 8.0
# More numbers than this cannot be read: of more runs the best have them, the others only their stars.
MOST = 12
# Further places than these, per side of the point, are not tried.
PLACES = 40
_CHARACTER = 0.6 * FONT
_LINE = 1.45 * FONT


@dataclass(frozen=True)
class _Box:
    """A rectangle, in pixels."""

    left: float
    bottom: float
    right: float
    top: float

    def overlaps(self, other: _Box) -> bool:
        return (
            self.left < other.right and self.right > other.left and self.bottom < other.top and self.top > other.bottom
        )


def place_labels(axis: Any, points: list[tuple[float, float, str, str]], below: bool) -> None:
    """Write (x, y, text, colour) labels near their points, inside the axes, none over another.

    below: on the side of lower values. A label that had to move away from its point gets a thin line to it.
    """
    to_pixels = axis.transData.transform
    scale = axis.figure.dpi / 72.0
    frame = axis.get_window_extent()
    taken: list[_Box] = []
    for x, y, text, colour in sorted(points, key=lambda p: p[1], reverse=not below)[:MOST]:
        px, py = to_pixels((x, y))
        width, height = (len(text) * _CHARACTER + 4) * scale, _LINE * scale
        left = min(max(px - width / 2, frame.x0), frame.x1 - width)
        gap = 5 * scale
        places = [_Box(left, bottom, left + width, bottom + height) for bottom in _bottoms(py, height, gap, below)]
        inside = [box for box in places if box.bottom >= frame.y0 and box.top <= frame.y1]
        box = next((box for box in inside if not any(map(box.overlaps, taken))), None)
        if box is None:
            continue  # no place is free: the point has its star
        taken.append(box)
        moved = abs(box.bottom + height / 2 - py) > 2.2 * height
        axis.annotate(
            text,
            (x, y),
            xytext=((left + width / 2 - px) / scale, (box.bottom + height / 2 - py) / scale),
            textcoords="offset points",
            ha="center",
            va="center",
            fontsize=FONT,
            color=colour,
            zorder=5,
            bbox={"boxstyle": "square,pad=0.1", "facecolor": "white", "edgecolor": "none", "alpha": 0.75},
            arrowprops={"arrowstyle": "-", "color": colour, "linewidth": 0.5} if moved else None,
        )


def _bottoms(y: float, height: float, gap: float, below: bool) -> Iterator[float]:
    """Lower edges of places for a label, nearest to the point at `y` first, above and below it in turn."""
    for distance in range(PLACES):
        over = y + gap + distance * height
        under = y - gap - height - distance * height
        yield from (under, over) if below else (over, under)
