"""The strokes of a picture, back to front: rectangles, wires and texts, which any backend can draw."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Union

from caffe_split.diagram.boxes import Shade
from caffe_split.diagram.layered import Point
from caffe_split.diagram.picture import (
    HEAD_SIZE,
    LINE_SIZE,
    NAME_SIZE,
    PAD,
    TAG_SIZE,
    Frame,
    Note,
    Picture,
    PlacedBox,
    Wire,
    text_width,
)

MARGIN = 12.0
LEGEND_HEIGHT = 20.0
ARROW = (5.0, 2.6)  # length, half width

# Dark and pale shades of the palette of Okabe and Ito, distinct with every kind of colour vision.
SHADES: dict[Shade, tuple[str, str]] = {
    "fast": ("#B84E00", "#FBE9DD"),
    "slow": ("#0060A0", "#E1EFF9"),
    "added": ("#007A58", "#DFF3EC"),
    "frozen": ("#4D4D4D", "#E3E3E3"),
    "plain": ("#8C8C8C", "#FFFFFF"),
}
FRAME_FILLS: dict[Shade, str] = {
    "plain": "#F6F6F6",
    "fast": "#FFF8F3",
    "slow": "#F5FAFE",
    "added": "#F3FBF8",
    "frozen": "#F0F0F0",
}
MEANINGS: dict[Shade, str] = {
    "fast": "kernels of high TPM",
    "slow": "kernels of low TPM",
    "added": "put in by the split",
    "frozen": "never learns",
}
INK, GREY = "#1A1A1A", "#5A5A5A"


@dataclass(frozen=True)
class Rectangle:
    """A rectangle. `label` is shown when the pointer is on it; `dashed` marks what never learns."""

    x: float
    y: float
    width: float
    height: float
    fill: str
    edge: str
    line: float = 0.9
    radius: float = 2.5
    dashed: bool = False
    label: str = ""


@dataclass(frozen=True)
class Curve:
    """Straight and S-shaped pieces between points; with `arrow` a head at the end."""

    points: tuple[Point, ...]
    colour: str
    arrow: bool


@dataclass(frozen=True)
class Text:
    """A line of text from `x` on, its baseline at `y`."""

    x: float
    y: float
    text: str
    size: float
    colour: str
    bold: bool = False


Stroke = Union[Rectangle, Curve, Text]


@dataclass(frozen=True)
class Drawing:
    """Strokes on a page of `width` x `height` points, y downwards."""

    strokes: tuple[Stroke, ...]
    width: float
    height: float


def drawing(picture: Picture, title: str = "") -> Drawing:
    """The whole page: margins, the title, and a legend of the roles that occur."""
    roles = {thing.role for thing in picture.frames} | {placed.box.role for placed in picture.boxes}
    top = LEGEND_HEIGHT if title or roles - {"plain"} else 0.0
    legend, legend_width = _legend(title, [role for role in MEANINGS if role in roles])
    moved = picture.moved(MARGIN, MARGIN + top)
    strokes: list[Stroke] = list(legend)
    # Frames from the outside in.
    for frame in sorted(moved.frames, key=lambda f: -f.width * f.height):
        strokes += _frame(frame)
    for wire in moved.wires:
        strokes.append(_wire(wire))
    for placed in moved.boxes:
        strokes += _box(placed)
    for note in moved.notes:
        strokes += _note(note)
    width = max(picture.width, legend_width) + 2 * MARGIN
    return Drawing(tuple(strokes), width, picture.height + top + 2 * MARGIN)


def _legend(title: str, roles: list[Shade]) -> tuple[list[Stroke], float]:
    strokes: list[Stroke] = []
    x, y = MARGIN, MARGIN
    if title:
        strokes.append(Text(x, y + 8, title, 10.0, INK, True))
        x += text_width(title, 10.0, True) + 18
    for role in roles:
        width = text_width(role, TAG_SIZE, True) + 8
        strokes += list(_tag(role, role, x, y))
        strokes.append(Text(x + width + 4, y + 7.5, MEANINGS[role], LINE_SIZE, GREY))
        x += width + text_width(MEANINGS[role], LINE_SIZE) + 18
    return strokes, x - MARGIN


def _tag(role: Shade, words: str, x: float, y: float) -> Iterator[Stroke]:
    dark, _ = SHADES[role]
    yield Rectangle(x, y, text_width(words, TAG_SIZE, True) + 8, TAG_SIZE + 3.5, dark, dark, 0.0, 2.0)
    yield Text(x + 4, y + TAG_SIZE + 0.8, words, TAG_SIZE, "#FFFFFF", True)


def _frame(frame: Frame) -> Iterator[Stroke]:
    dark, _ = SHADES[frame.role]
    fill = FRAME_FILLS[frame.role]
    yield Rectangle(
        frame.x, frame.y, frame.width, frame.height, fill, dark, 1.2, 4.0, False, f"{frame.name}: {frame.note}"
    )
    x, base = frame.x + 6, frame.y + 11
    yield Text(x, base, frame.title, HEAD_SIZE, INK, True)
    x += text_width(frame.title, HEAD_SIZE, True) + 5
    if frame.tag:
        yield from _tag(frame.role, frame.tag, x, frame.y + 3)
        x += text_width(frame.tag, TAG_SIZE, True) + 13
    yield Text(x, base, frame.note, LINE_SIZE, GREY)


def _box(placed: PlacedBox) -> Iterator[Stroke]:
    box = placed.box
    dark, pale = SHADES[box.role]
    frozen = box.role == "frozen"
    label = ", ".join(box.layers)
    yield Rectangle(placed.x, placed.y, placed.width, placed.height, pale, dark, 1.0, 2.5, frozen, label)
    x, base = placed.x + PAD, placed.y + PAD + NAME_SIZE * 0.85
    yield Text(x, base, placed.title, NAME_SIZE, INK, bool(placed.lines))
    if box.tag:
        width = text_width(box.tag, TAG_SIZE, True) + 8
        y = placed.y + 3 if not placed.low_tag else base + 2.5
        yield from _tag(box.role, box.tag, placed.x + placed.width - width - 3, y)
    for number, line in enumerate(placed.lines):
        yield Text(x, base + NAME_SIZE * 0.3 + (number + 1) * LINE_SIZE * 1.3 - 2, line, LINE_SIZE, GREY)


def _note(note: Note) -> Iterator[Stroke]:
    yield Rectangle(note.x, note.y, note.width, note.height, "#FFFFFF", "#BFBFBF", 0.7, 5.0, True)
    yield Text(note.x + PAD, note.y + note.height - PAD, note.text, LINE_SIZE, GREY)


def _wire(wire: Wire) -> Curve:
    return Curve(wire.points, "#404040", wire.arrow)


def pieces(curve: Curve) -> Iterator[tuple[Point, ...]]:
    """The curve's pieces: (start, end) of a straight one, (start, control, control, end) of an S.

    An arrow's head takes the last part of the way.
    """
    points = list(curve.points)
    if curve.arrow:
        x, y = points[-1]
        points[-1] = (x, y - ARROW[0] + 0.5)
        if len(points) > 1 and points[-2][0] == x and points[-2][1] > points[-1][1]:
            points[-2] = points[-1]
    for (x0, y0), (x1, y1) in zip(points, points[1:]):
        if (x0, y0) == (x1, y1):
            continue
        if x0 == x1 or y0 == y1:
            yield (x0, y0), (x1, y1)
        else:
            middle = (y0 + y1) / 2
            yield (x0, y0), (x0, middle), (x1, middle), (x1, y1)


def arrow_head(curve: Curve) -> tuple[Point, Point, Point] | None:
    """The triangle at the curve's end, or None."""
    if not curve.arrow:
        return None
    (x, y), (length, half) = curve.points[-1], ARROW
    return (x, y), (x - half, y - length), (x + half, y - length)
