"""Which boxes belong to the split of X, one split within another where rounds repeat."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from caffe_split.diagram.boxes import Box
from caffe_split.net.layers import Layer
from caffe_split.split.kinds import KindName
from caffe_split.split.recognise import Role, Split, find_splits, last_layer


@dataclass(frozen=True)
class SplitBoxes:
    """The split of layer `name` as boxes, by index.

    `members` are its boxes, those of splits inside it among them; `inside` are the splits of its own parts; `last` is
    the box of its last layer. `role` is that in the split around it, None where there is none. `halves` are the boxes
    that give the fast and the slow half, or the latter alone.
    """

    name: str
    kind: KindName
    role: Role | None
    members: frozenset[int]
    inside: tuple[SplitBoxes, ...]
    last: int
    halves: tuple[int, ...]

    @property
    def own(self) -> frozenset[int]:
        """The members that are in no split inside it."""
        return self.members - frozenset().union(*(split.members for split in self.inside))


def split_boxes(layers: Sequence[Layer], boxes: Sequence[Box]) -> list[SplitBoxes]:
    """The splits of a phase's layers that are in no other, in the order of the net, in boxes that hold all layers."""
    box_of = {layer: i for i, box in enumerate(boxes) for layer in box.layers}
    places = [box_of[layer.name] for layer in layers]
    return [_in_boxes(split, places, None) for split in find_splits(layers)]


def _in_boxes(split: Split, places: Sequence[int], role: Role | None) -> SplitBoxes:
    return SplitBoxes(
        name=split.origin,
        kind=split.kind,
        role=role,
        members=frozenset(places[index] for index in split.members),
        inside=tuple(_in_boxes(inner, places, split.role_inside(inner)) for inner in split.inside),
        last=places[split.last],
        halves=tuple(places[last_layer(half)] for half in split.halves),
    )
