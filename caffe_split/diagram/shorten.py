"""Fewer boxes for a long net: a stretch without splits becomes one box, or a block that repeats is drawn once.

A block is what lies between two places where all data comes from one thing: a layer of a chain, a residual block,
an inception module.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caffe_split.diagram.boxes import Box
from caffe_split.diagram.flow import Flow, cuts

# A stretch without splits is drawn in one box when it has at least this many boxes.
FEWEST = 4
# A block that occurs this often in a row, or more often, is drawn once.
MOST_ALIKE = 4


@dataclass(frozen=True)
class _Group:
    """Boxes, by number, that become one, and what it says."""

    numbers: tuple[int, ...]
    line: str


def shortened(boxes: Sequence[Box], flow: Flow) -> list[Box]:
    """The boxes, some of them joined: stretches where something is split, else repetitions."""
    groups = _stretches(boxes, flow) if any(flow.is_split) else _repetitions(boxes, flow)
    joined = {number: group for group in groups for number in group.numbers}
    kept = [number for number in range(len(boxes)) if number not in joined or joined[number].numbers[0] == number]
    home = {
        number: kept.index(joined[number].numbers[0] if number in joined else number) for number in range(len(boxes))
    }
    return [_joined(boxes, joined.get(number, _Group((number,), "")), home) for number in kept]


def _blocks(flow: Flow) -> list[list[int]]:
    """The things of each block, without sources of data."""
    ends = [rank for rank, sources in enumerate(cuts(flow)) if len(sources) == 1] + [max(flow.ranks)]
    blocks, start = [], 0
    for end in ends:
        things = [t for t, rank in enumerate(flow.ranks) if start <= rank <= end and not flow.is_source[t]]
        blocks.append(things)
        start = end + 1
    return blocks


def _stretches(boxes: Sequence[Box], flow: Flow) -> list[_Group]:
    stretches: list[list[int]] = [[]]
    for block in _blocks(flow):
        if any(flow.is_split[thing] for thing in block):
            stretches.append([])
        else:
            stretches[-1] += [flow.numbers[thing] for thing in block]
    return [
        _Group(tuple(stretch), f"{_layer_count(boxes, stretch)} layers, none of them split")
        for stretch in stretches
        if len(stretch) >= FEWEST
    ]


def _repetitions(boxes: Sequence[Box], flow: Flow) -> list[_Group]:
    blocks = [[flow.numbers[thing] for thing in block] for block in _blocks(flow)]
    alike = [_signature(boxes, block) for block in blocks]
    groups, start = [], 0
    while start < len(blocks):
        stop = start + 1
        while stop < len(blocks) and alike[stop] == alike[start] and blocks[start]:
            stop += 1
        if stop - start >= MOST_ALIKE:
            rest = [number for block in blocks[start + 1 : stop] for number in block]
            line = f"the block above {stop - start - 1} times more, {_layer_count(boxes, rest)} layers"
            groups.append(_Group(tuple(rest), line))
        start = stop
    return groups


def _signature(boxes: Sequence[Box], block: Sequence[int]) -> object:
    """What two blocks have in common that differ in names only."""
    place = {number: index for index, number in enumerate(block)}
    return [
        (box.lines, box.followers, box.role, [place.get(source, -1) for source, _ in box.inputs])
        for box in (boxes[number] for number in block)
    ]


def _layer_count(boxes: Sequence[Box], numbers: Sequence[int]) -> int:
    return sum(len(boxes[number].layers) for number in numbers)


def _joined(boxes: Sequence[Box], group: _Group, home: Mapping[int, int]) -> Box:
    members = [boxes[number] for number in group.numbers]
    own = home[group.numbers[0]]
    inputs = tuple(dict.fromkeys((home[u], blob) for box in members for u, blob in box.inputs if home[u] != own))
    if not group.line:
        return replace(members[0], inputs=inputs)
    return Box(
        name=f"{members[0].name} to {members[-1].name}",
        layers=tuple(layer for box in members for layer in box.layers),
        role="plain",
        tag="",
        lines=(group.line,),
        followers=(),
        inputs=inputs,
    )
