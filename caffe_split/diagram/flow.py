"""The outermost things of a page, boxes and whole splits, and what flows between them."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass

from caffe_split.diagram.boxes import Box
from caffe_split.diagram.layered import rank_nodes
from caffe_split.diagram.picture import Picture, box_picture, split_picture
from caffe_split.diagram.splits import SplitBoxes

# Wires from data that pass more ranks than this become notes, so that labels do not cross the whole net.
LONGEST_FROM_SOURCE = 3


@dataclass(frozen=True)
class Flow:
    """The outermost things of the page, a box or a split each, in the order of the net.

    `numbers` are those of the boxes, of a split that of its last one; `edges` triples (source, target, blob).
    """

    pictures: tuple[Picture, ...]
    names: tuple[str, ...]
    numbers: tuple[int, ...]
    edges: tuple[tuple[int, int, str], ...]
    is_split: tuple[bool, ...]
    is_source: tuple[bool, ...]

    @functools.cached_property
    def pairs(self) -> list[tuple[int, int]]:
        """The edges without their blobs, each once, ascending."""
        return sorted({(u, v) for u, v, _ in self.edges})

    @functools.cached_property
    def all_ranks(self) -> list[int]:
        """Ranks by all edges, notes too."""
        return rank_nodes(len(self.pictures), self.pairs)

    @functools.cached_property
    def ranks(self) -> list[int]:
        """Ranks by the edges that are drawn as wires."""
        return rank_nodes(len(self.pictures), [pair for pair in self.pairs if not from_far(self, pair)])


def make_flow(boxes: Sequence[Box], splits: Sequence[SplitBoxes]) -> Flow:
    """The flow between boxes, those of a split as one thing; `splits` are the outermost ones."""
    home = {member: split.last for split in splits for member in split.members}
    by_last = {split.last: split for split in splits}
    keys = sorted({home.get(index, index) for index in range(len(boxes))})
    keys = _topological(keys, [(home.get(u, u), home.get(v, v)) for v, box in enumerate(boxes) for u, _ in box.inputs])
    number = {key: index for index, key in enumerate(keys)}
    edges: dict[tuple[int, int, str], None] = {}
    for v, box in enumerate(boxes):
        for u, blob in box.inputs:
            source, target = number[home.get(u, u)], number[home.get(v, v)]
            if source != target:
                edges[source, target, blob] = None
    return Flow(
        pictures=tuple(split_picture(by_last[k], boxes) if k in by_last else box_picture(boxes[k]) for k in keys),
        names=tuple(by_last[k].name if k in by_last else boxes[k].name for k in keys),
        numbers=tuple(keys),
        edges=tuple(edges),
        is_split=tuple(k in by_last for k in keys),
        is_source=tuple(k not in by_last and boxes[k].is_source for k in keys),
    )


def _topological(keys: Sequence[int], pairs: Sequence[tuple[int, int]]) -> list[int]:
    """The keys in an order in which every pair runs forwards, else as given."""
    above: dict[int, set[int]] = {key: set() for key in keys}
    for u, v in pairs:
        if u != v:
            above[v].add(u)
    done: list[int] = []
    seen: set[int] = set()
    for key in keys:
        stack = [key]
        while stack:
            top = stack[-1]
            missing = [u for u in sorted(above[top]) if u not in seen]
            if missing and top not in seen:
                stack += missing
            else:
                stack.pop()
                if top not in seen:
                    seen.add(top)
                    done.append(top)
    return done


def from_far(flow: Flow, pair: tuple[int, int]) -> bool:
    """Whether an edge comes from data to one of the last layers; then a note says so."""
    u, v = pair
    return flow.is_source[u] and flow.all_ranks[v] - flow.all_ranks[u] > LONGEST_FROM_SOURCE


def cuts(flow: Flow) -> list[set[int]]:
    """For each rank r the things whose data goes past the gap between r and r + 1."""
    ranks = flow.ranks
    passing: list[set[int]] = [set() for _ in range(max(ranks))]
    for u, v in flow.pairs:
        if not from_far(flow, (u, v)):
            for rank in range(ranks[u], ranks[v]):
                passing[rank].add(u)
    return passing
