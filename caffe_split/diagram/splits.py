"""The splits in a net: which boxes belong to the split of X, one within another where rounds repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caffe_split.diagram.boxes import Box, is_split


@dataclass(frozen=True)
class Split:
    """The split of layer `name`: `members` are the indices of its boxes, those of splits inside it too.

    `inside` are the splits of its own parts; `last` is the box of its reorder.
    """

    name: str
    kind: str
    members: frozenset[int]
    inside: tuple[Split, ...]
    last: int

    @property
    def own(self) -> frozenset[int]:
        """The members that are in no split inside it."""
        return self.members - frozenset().union(*(split.members for split in self.inside))


def find_splits(boxes: Sequence[Box]) -> list[Split]:
    """The splits that are in no other, in the order of the net."""
    index = {layer: i for i, box in enumerate(boxes) for layer in box.layers}
    names = set(index)
    found: list[tuple[str, frozenset[int]]] = []
    for layer in index:
        origin = layer[: -len("_reorder")]
        if layer.endswith("_reorder") and is_split(origin, names):
            entry = _entry(origin, index, boxes)
            if entry is not None:
                found.append((origin, _between(boxes, entry, index[layer])))
    return _nested(found, index, names)


def _nested(found: Sequence[tuple[str, frozenset[int]]], index: dict[str, int], names: set[str]) -> list[Split]:
    outer = []
    for name, members in found:
        if any(other != name and name.startswith(other) and members < more for other, more in found):
            continue
        inner = [item for item in found if item[0] != name and item[0].startswith(name) and item[1] < members]
        inside = tuple(_nested(inner, index, names))
        outer.append(Split(name, _kind(name, names), members, inside, index[f"{name}_reorder"]))
    return outer


def _kind(name: str, names: set[str]) -> str:
    for kind, ending in (("residual", "_residual_post"), ("skip", "_skip"), ("extension", "_extension")):
        if f"{name}_split2{ending}" in names or f"{name}_split2{ending}_reorder" in names:
            return kind
    return ""


def _entry(origin: str, index: dict[str, int], boxes: Sequence[Box]) -> int | None:
    """The box whose blob the split layer reads; -1 where nothing in the net gives it; None where it is no split."""
    name = f"{origin}_split1"
    while name not in index:
        if f"{name}_reorder" not in index:
            return None
        name += "_split1"
    inputs = boxes[index[name]].inputs
    return inputs[0][0] if inputs else -1


def _between(boxes: Sequence[Box], entry: int, last: int) -> frozenset[int]:
    """All boxes on the ways that lead to `last`, back to `entry`, which is not one of them."""
    members, stack = set(), [last]
    while stack:
        box = stack.pop()
        if box != entry and box not in members:
            members.add(box)
            stack += [source for source, _ in boxes[box].inputs]
    return frozenset(members)
