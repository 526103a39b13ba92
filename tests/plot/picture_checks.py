"""What holds of every picture of a net: nothing over another, wires that end at boxes, a flow from left to right."""

from __future__ import annotations

import itertools
from collections import Counter

from caffe_split.diagram.boxes import Box
from caffe_split.diagram.picture import HEAD_HEIGHT, Frame, Picture, PlacedBox
from caffe_split.diagram.strokes import Curve, Rectangle, pieces


def overlap(a: object, b: object) -> bool:
    return (
        a.x < b.x + b.width - 0.01  # type: ignore[attr-defined]
        and b.x < a.x + a.width - 0.01  # type: ignore[attr-defined]
        and a.y < b.y + b.height - 0.01  # type: ignore[attr-defined]
        and b.y < a.y + a.height - 0.01  # type: ignore[attr-defined]
    )


def holds(frame: Frame, thing: object) -> bool:
    return (
        frame.x <= thing.x  # type: ignore[attr-defined]
        and frame.y <= thing.y  # type: ignore[attr-defined]
        and thing.x + thing.width <= frame.x + frame.width  # type: ignore[attr-defined]
        and thing.y + thing.height <= frame.y + frame.height  # type: ignore[attr-defined]
    )


def check_page(picture: Picture, layers: list[str]) -> None:
    """Every layer once; no two boxes or notes over one another; frames within one another or apart; wires clear."""
    assert Counter(name for placed in picture.boxes for name in placed.box.layers) == Counter(layers)
    things = [*picture.boxes, *picture.notes]
    for a, b in itertools.combinations(things, 2):
        assert not overlap(a, b), (a, b)
    for a, b in itertools.combinations(picture.frames, 2):
        assert not overlap(a, b) or holds(a, b) or holds(b, a), (a.name, b.name)
    for thing in (*things, *picture.frames):
        assert thing.x >= 0 and thing.y >= 0
        assert thing.x + thing.width <= picture.width + 0.01 and thing.y + thing.height <= picture.height + 0.01
        for frame in picture.frames:
            assert not overlap(frame, thing) or holds(frame, thing) or holds(thing, frame)  # type: ignore[arg-type]
    for wire in picture.wires:
        for piece in pieces(Curve(wire.points, "", False)):
            xs, ys = [x for x, _ in piece], [y for _, y in piece]
            hull = Rectangle(min(xs), min(ys), max(xs) - min(xs), max(ys) - min(ys), "", "")
            for thing in things:
                crossed = (
                    hull.x < thing.x + thing.width - 0.5
                    and thing.x + 0.5 < hull.x + hull.width
                    and hull.y < thing.y + thing.height - 0.5
                    and thing.y + 0.5 < hull.y + hull.height
                )
                assert not crossed, (wire, thing)


def check_joints(picture: Picture) -> None:
    """Every wire begins under a box, a frame or a note, in a frame's head, or where another ends; and ends alike."""

    def near(a: float, b: float) -> bool:
        return abs(a - b) < 0.01

    things = [*picture.boxes, *picture.frames, *picture.notes]
    starts, ends = [w.points[0] for w in picture.wires], [w.points[-1] for w in picture.wires]
    for wire in picture.wires:
        (x, y), (to_x, to_y) = wire.points[0], wire.points[-1]
        bottoms = [t for t in things if near(y, t.y + t.height) and t.x <= x <= t.x + t.width]
        heads = [f for f in picture.frames if near(y, f.y + HEAD_HEIGHT) and f.x <= x <= f.x + f.width]
        assert bottoms or heads or any(near(x, a) and near(y, b) for a, b in ends), wire
        tops = [t for t in things if near(to_y, t.y) and t.x <= to_x <= t.x + t.width]
        floors = [f for f in picture.frames if near(to_y, f.y + f.height) and f.x <= to_x <= f.x + f.width]
        assert tops or floors or any(near(to_x, a) and near(to_y, b) for a, b in starts), wire
        assert wire.arrow or not tops
    for frame in picture.frames:
        assert any(near(y, frame.y + frame.height) and frame.x <= x <= frame.x + frame.width for x, y in ends)


def check_flow(picture: Picture, boxes: list[Box]) -> None:
    """Every input of every box is drawn: as wires from one to the other, through frames and turns, or as a note."""
    drawn = {(wire.source, wire.target) for wire in picture.wires}
    notes = " ".join(note.text for note in picture.notes)
    around = {placed.box.name: _frames_around(picture, placed) for placed in picture.boxes}
    for placed in picture.boxes:
        for index, blob in placed.box.inputs:
            source = boxes[index].name
            mine, theirs = around[placed.box.name], around[source]
            shared = 0
            while shared < min(len(mine), len(theirs)) and mine[shared] == theirs[shared]:
                shared += 1
            target = [*mine, placed.box.name][shared]
            origin = [*theirs, source][shared]
            direct = (origin, target) in drawn
            turned = (origin, "") in drawn and ("", target) in drawn
            noted = f"from {origin}" in notes and ("", target) in drawn
            assert direct or turned or noted, (source, placed.box.name, blob)
            for outer, inner in zip([*mine][shared:], [*mine, placed.box.name][shared + 1 :]):
                assert ("", inner) in drawn and ("", outer) in drawn, (outer, inner)


def _frames_around(picture: Picture, placed: PlacedBox) -> list[str]:
    found = [frame for frame in picture.frames if holds(frame, placed)]
    return [frame.name for frame in sorted(found, key=lambda frame: -frame.width * frame.height)]
