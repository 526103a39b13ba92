"""The gradients after a split as SVG: a curve per role of the layers, on a logarithmic scale."""

from __future__ import annotations

import math
from collections.abc import Sequence

from caffe_split.derivation.after_split import Course, Role
from caffe_split.report.markup import Html, element

_WIDTH, _HEIGHT = 680, 300
_LEFT, _RIGHT, _TOP, _BOTTOM = 52, 130, 14, 40
# Dark enough for white paper, light enough for a dark page: the picture also stands alone, without the page's style.
_COLOURS: dict[Role, str] = {"untouched": "#7a828e", "halves": "#2f86c9", "added": "#d9651f", "reorder": "#17976b"}
_WORDS: dict[Role, str] = {
    "untouched": "untouched layers",
    "halves": "split1 and split2",
    "added": "added path",
    "reorder": "reorder",
}
# Between the names at the right.
_LINE = 15.0


def chart(course: Course, name: str) -> Html:
    """The curves of a derived net `name`; also a picture by itself. Values of 0 and NaN are left out."""
    shown = {role: values for role, values in course.rms.items() if any(map(_is_shown, values))}
    low, high = _decades([value for values in shown.values() for value in values if _is_shown(value)])
    pieces = [*_grid(course, low, high)]
    ends = []
    for role, values in shown.items():
        points = [(_x(i, course), _y(v, low, high)) for i, v in enumerate(values) if _is_shown(v)]
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        pieces.append(element("polyline", points=path, fill="none", stroke=_COLOURS[role], stroke_width=2))
        pieces += [element("circle", cx=f"{x:.1f}", cy=f"{y:.1f}", r=3, fill=_COLOURS[role]) for x, y in points]
        ends.append((points[-1][1], role))
    for y, role in _spread(ends):
        pieces.append(_text(_WORDS[role], _WIDTH - _RIGHT + 10, y + 4, "start", _COLOURS[role]))
    return element(
        "svg",
        element("title", f"Gradient per weight after the split of {name}. {course.sentence()}"),
        *pieces,
        xmlns="http://www.w3.org/2000/svg",
        viewBox=f"0 0 {_WIDTH} {_HEIGHT}",
        role="img",
        class_="gradients",
        fill="#7a828e",
        font_family="system-ui, sans-serif",
        font_size=12,
    )


def section(course: Course, name: str) -> list[Html]:
    """The chart with its heading and what it says."""
    note = (
        f"Root mean square of the gradient of the loss per weight, in {course.batches} batches of the training data, "
        "at the split and at snapshots of the training after it."
    )
    return [
        element("h3", "Gradients after the split"),
        *([element("p", course.sentence())] if course.sentence() else []),
        element("p", note, class_="note"),
        element("figure", chart(course, name)),
    ]


def _is_shown(value: float) -> bool:
    return math.isfinite(value) and value > 0


def _decades(values: Sequence[float]) -> tuple[int, int]:
    """The powers of ten around the values."""
    if not values:
        return -1, 0
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    return low, max(high, low + 1)


def _grid(course: Course, low: int, high: int) -> list[Html]:
    right, bottom = _WIDTH - _RIGHT, _HEIGHT - _BOTTOM
    pieces = []
    for power in range(low, high + 1):
        y = _y(10.0**power, low, high)
        pieces.append(
            element("line", x1=_LEFT, y1=f"{y:.1f}", x2=right, y2=f"{y:.1f}", stroke="#7a828e", stroke_opacity=0.3)
        )
        pieces.append(_text(f"1e{power:+d}", _LEFT - 8, y + 4, "end"))
    pieces += [_text(str(n), _x(i, course), bottom + 18, "middle") for i, n in enumerate(course.iterations)]
    pieces.append(_text("iterations after the split", (_LEFT + right) / 2, _HEIGHT - 5, "middle"))
    return pieces


def _spread(ends: Sequence[tuple[float, Role]]) -> list[tuple[float, Role]]:
    """The heights of names, moved down where they would stand over each other."""
    placed: list[tuple[float, Role]] = []
    for y, role in sorted(ends):
        placed.append((max(y, placed[-1][0] + _LINE) if placed else y, role))
    over = placed[-1][0] - (_HEIGHT - _BOTTOM) if placed else 0.0
    return [(y - max(over, 0.0), role) for y, role in placed]


def _x(place: int, course: Course) -> float:
    steps = max(len(course.iterations) - 1, 1)
    return _LEFT + (_WIDTH - _LEFT - _RIGHT) * place / steps


def _y(value: float, low: int, high: int) -> float:
    room = _HEIGHT - _TOP - _BOTTOM
    return _TOP + room * (high - math.log10(value)) / (high - low)


def _text(text: str, x: float, y: float, anchor: str, fill: str | None = None) -> Html:
    return element("text", text, x=f"{x:.1f}", y=f"{y:.1f}", text_anchor=anchor, fill=fill)
