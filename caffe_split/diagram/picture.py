"""The picture of a net as a value: every box, frame and wire with its place, in points, y downwards."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caffe_split.diagram.boxes import Box, Shade
from caffe_split.diagram.layered import Node, Point, place
from caffe_split.diagram.splits import SplitBoxes
from caffe_split.layertypes.table import record_of
from caffe_split.split import naming

NAME_SIZE, LINE_SIZE, TAG_SIZE, HEAD_SIZE = 8.0, 7.0, 6.5, 8.0
PAD, FRAME_PAD, HEAD_HEIGHT = 4.0, 7.0, 14.0
MIN_WIDTH, SHORT_LINE = 30.0, 75.0
_NARROW, _WIDE = set("iljIftr.,:;'|!()[]/ -"), set("mwMW%@")


def text_width(text: str, size: float, bold: bool = False) -> float:
    """An estimate of the width of a text, rather too wide, for a common sans serif face."""
    width = sum(0.38 if c in _NARROW else 1.0 if c in _WIDE else 0.74 if c.isupper() else 0.635 for c in text)
    return width * size * (1.1 if bold else 1.0)


@dataclass(frozen=True)
class PlacedBox:
    """A box of the net: `title` is its name, within a split without the split layer's name before it.

    `low_tag`: its tag stands beside the first of `lines`, not beside the title.
    """

    box: Box
    title: str
    lines: tuple[str, ...]
    low_tag: bool
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Frame:
    """The frame around a split: `title` names the layer that was split, `note` says into what."""

    name: str
    title: str
    note: str
    role: Shade
    tag: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Wire:
    """Data flows along `points`, from the bottom of one thing to the top of another.

    `arrow` is False where it only reaches the place from which branches part.
    """

    source: str
    target: str
    points: tuple[Point, ...]
    arrow: bool = True


@dataclass(frozen=True)
class Note:
    """A small text over a box that names a blob whose wire would be too long to draw."""

    text: str
    x: float
    y: float
    width: float
    height: float


@dataclass(frozen=True)
class Picture:
    """All that is to be drawn. Within `width` x `height` nothing overlaps but frames and what is inside them."""

    boxes: tuple[PlacedBox, ...] = ()
    frames: tuple[Frame, ...] = ()
    wires: tuple[Wire, ...] = ()
    notes: tuple[Note, ...] = ()
    width: float = 0.0
    height: float = 0.0
    enter: float = 0.0
    leave: float = 0.0

    def moved(self, dx: float, dy: float) -> Picture:
        """The same, shifted; its size stays."""
        return replace(
            self,
            boxes=tuple(replace(box, x=box.x + dx, y=box.y + dy) for box in self.boxes),
            frames=tuple(replace(frame, x=frame.x + dx, y=frame.y + dy) for frame in self.frames),
            notes=tuple(replace(note, x=note.x + dx, y=note.y + dy) for note in self.notes),
            wires=tuple(replace(w, points=tuple((x + dx, y + dy) for x, y in w.points)) for w in self.wires),
        )

    def over(self, other: Picture) -> Picture:
        """Both together, with the size of this one."""
        return replace(
            self,
            boxes=self.boxes + other.boxes,
            frames=self.frames + other.frames,
            wires=self.wires + other.wires,
            notes=self.notes + other.notes,
        )


def box_picture(box: Box, within: str = "") -> Picture:
    """One box at the origin; `within` is the split layer whose part it is."""
    title = naming.within(box.name, within)
    lines = _lines(box, bool(within))
    tag = text_width(box.tag, TAG_SIZE, bold=True) + 12 if box.tag else 0.0
    name = text_width(title, NAME_SIZE, bold=True)
    widths = [text_width(line, LINE_SIZE) for line in lines]
    # The tag stands beside the name or beside the first line, whichever makes the narrower box.
    beside_name = max(name + tag, *widths, MIN_WIDTH)
    beside_line = max(name, widths[0] + tag, *widths, MIN_WIDTH) if lines else beside_name
    width = min(beside_name, beside_line) + 2 * PAD
    height = 2 * PAD + NAME_SIZE * 1.15 + len(lines) * LINE_SIZE * 1.3
    placed = PlacedBox(box, title, lines, beside_line < beside_name, 0.0, 0.0, width, height)
    return Picture(boxes=(placed,), width=width, height=height, enter=width / 2, leave=width / 2)


def _lines(box: Box, narrow: bool) -> tuple[str, ...]:
    """The text under the name. In a split, where boxes stand side by side, short lines; the joins' names say enough."""
    followers = "+ " + ", ".join(record_of(kind).short or kind for kind in box.followers) if box.followers else ""
    if narrow and box.joins and not box.followers:
        return ()
    if narrow:
        return box.lines + ((followers,) if followers else ())
    whole = ", ".join(box.lines)
    if followers and text_width(f"{whole} {followers}", LINE_SIZE) < SHORT_LINE:
        return (f"{whole} {followers}",)
    return (whole, followers) if followers else (whole,)


def note_picture(text: str) -> Picture:
    """A note at the origin."""
    width, height = text_width(text, LINE_SIZE) + 2 * PAD, LINE_SIZE * 1.3 + PAD
    note = Note(text, 0.0, 0.0, width, height)
    return Picture(notes=(note,), width=width, height=height, enter=width / 2, leave=width / 2)


def split_picture(split: SplitBoxes, boxes: Sequence[Box], within: str = "") -> Picture:
    """The frame of a split with its parts, at the origin."""
    children = {min(child.members): split_picture(child, boxes, split.name) for child in split.inside}
    place_of = {member: min(child.members) for child in split.inside for member in child.members}
    parts = {index: box_picture(boxes[index], split.name) for index in split.own} | children
    names = {index: boxes[index].name for index in split.own} | {min(c.members): c.name for c in split.inside}
    edges = []
    for member in sorted(split.members):
        for source, _ in boxes[member].inputs:
            edges.append(
                (place_of.get(source, source) if source in split.members else ENTRY, place_of.get(member, member))
            )
    inner = arrange(parts, [edge for edge in edges if edge[0] != edge[1]], names, True, split.last, side=0.005)
    title = naming.within(split.name, within)
    tag, role = split.role or "", split.role or "plain"
    note = _sides(split, boxes)
    head = text_width(title, HEAD_SIZE, bold=True) + text_width(note, LINE_SIZE) + 14
    head += text_width(tag, TAG_SIZE) + 10 if tag else 0
    width = max(inner.width + 2 * FRAME_PAD, head)
    height = HEAD_HEIGHT + inner.height + 2 * FRAME_PAD
    left, top = (width - inner.width) / 2, HEAD_HEIGHT + FRAME_PAD
    frame = Frame(split.name, title, note, role, tag, 0.0, 0.0, width, height)
    enter, leave = left + inner.enter, left + inner.leave
    # From the head to where the branches part, and from the reorder to the frame's edge.
    wires = (
        Wire("", split.name, ((enter, HEAD_HEIGHT), (enter, top)), arrow=False),
        Wire(split.name, "", ((leave, top + inner.height), (leave, height)), arrow=False),
    )
    outside = Picture(frames=(frame,), wires=wires, width=width, height=height, enter=enter, leave=leave)
    return outside.over(inner.moved(left, top))


def _sides(split: SplitBoxes, boxes: Sequence[Box]) -> str:
    """`residual split, 8 fast + 8 slow`, as far as it is known; `residual split, all 16` of a layer not divided."""
    # A half that was split again has the kernels that its own reorder puts together.
    counts = [boxes[half].kernels for half in split.halves]
    words = f"{split.kind} split"
    if not all(counts):
        return words
    return f"{words}, all {counts[0]}" if len(counts) == 1 else f"{words}, {counts[0]} fast + {counts[1]} slow"


def arrange(
    parts: Mapping[int, Picture],
    edges: Sequence[tuple[int, int]],
    names: Mapping[int, str],
    enters: bool = False,
    leaves: int | None = None,
    side: float = 1.0,
) -> Picture:
    """Pictures laid out along the edges between them (keys of `parts`; no cycles, and ascending along the flow).

    With `enters`, edges from key -1 come from one place at the top; `leaves` is the part whose data goes on, from
    a place at the bottom. For `side` see `place`.
    """
    keys = ([ENTRY] if enters else []) + sorted(parts)
    links = list(edges)
    if leaves is not None:
        keys.append(EXIT)
        links.append((leaves, EXIT))
    point = Picture()
    shown = {key: parts.get(key, point) for key in keys}
    pins = {ENTRY: "first", EXIT: "last"}
    nodes = [Node(p.width, p.height, p.enter, p.leave, pins.get(key, "")) for key, p in shown.items()]
    number = {key: index for index, key in enumerate(keys)}
    placed = place(nodes, sorted({(number[u], number[v]) for u, v in links}), side)
    corner = dict(zip(keys, placed.corners))
    picture = Picture(
        width=placed.width,
        height=placed.height,
        enter=corner[ENTRY][0] if enters else 0.0,
        leave=corner[EXIT][0] if leaves is not None else 0.0,
    )
    for key, part in shown.items():
        picture = picture.over(part.moved(*corner[key]))
    wires = tuple(
        Wire(names.get(keys[u], ""), names.get(keys[v], ""), points, arrow=keys[v] != EXIT)
        for (u, v), points in placed.wires.items()
    )
    return replace(picture, wires=picture.wires + wires)


# Keys of the places where data comes in and goes on; parts have keys between them.
ENTRY, EXIT = -1, 1 << 30


def aspect_distance(width: float, height: float, target: float) -> float:
    """How far a page is from the wanted width / height, the same for twice and for half."""
    return abs(math.log(width / height / target))
