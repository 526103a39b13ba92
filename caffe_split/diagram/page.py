"""A whole net on a page: splits in frames, long nets in several columns, stretches without splits in one box."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

from caffe_split.diagram.boxes import Box, make_boxes
from caffe_split.diagram.layered import RANK_GAP, rank_nodes
from caffe_split.diagram.picture import (
    ENTRY,
    Picture,
    Wire,
    arrange,
    aspect_distance,
    box_picture,
    note_picture,
    split_picture,
)
from caffe_split.diagram.splits import Split, find_splits
from caffe_split.errors import CaffeSplitError
from caffe_split.net import Layer

COLUMN_GAP, TURN_GAP, MOST_COLUMNS = 34.0, 14.0, 8
# A page lower than this, in points, is not divided into more columns.
LOW_PAGE = 480.0
# Wires from data that pass more ranks than this become notes, so that labels do not cross the whole net.
LONGEST_FROM_SOURCE = 3
# A stretch without splits is drawn in one box when it has at least this many.
FEWEST = 4


@dataclass(frozen=True)
class _Flow:
    """The outermost things of the page, a box or a split each, in the order of the net.

    `edges` are triples (source, target, blob); `boxes` the numbers of the net's boxes in each thing.
    """

    pictures: tuple[Picture, ...]
    names: tuple[str, ...]
    edges: tuple[tuple[int, int, str], ...]
    is_split: tuple[bool, ...]
    is_source: tuple[bool, ...]

    @property
    def pairs(self) -> list[tuple[int, int]]:
        return sorted({(u, v) for u, v, _ in self.edges})


def net_page(layers: Sequence[Layer], whole: bool | None = None, aspect: float = 1.3) -> Picture:
    """The page of a phase's layers.

    Unless `whole`, stretches without a split are a box each; by default where there is any split. `aspect` is the
    wanted width / height, which tells the number of columns. Raises `CaffeSplitError` where `whole` is False and
    no layer is split.
    """
    boxes = make_boxes(layers)
    splits = find_splits(boxes)
    if whole is False and not splits:
        raise CaffeSplitError("no layer of the net was split; draw the whole net.")
    flow = _flow(boxes, splits)
    if splits and not whole:
        boxes = _shortened(boxes, flow, splits)
        splits = find_splits(boxes)
        flow = _flow(boxes, splits)
    ranks = rank_nodes(len(flow.pictures), [pair for pair in flow.pairs if not _from_far(flow, pair)])
    pages: list[Picture] = []
    for count in range(1, min(MOST_COLUMNS, max(ranks) + 1) + 1):
        pages.append(_in_columns(flow, ranks, count))
        if pages[-1].height < LOW_PAGE or pages[-1].width > 3 * aspect * pages[-1].height:
            break
    return min(pages, key=lambda page: aspect_distance(page.width, page.height, aspect))


def _flow(boxes: Sequence[Box], splits: Sequence[Split]) -> _Flow:
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
    return _Flow(
        pictures=tuple(split_picture(by_last[k], boxes) if k in by_last else box_picture(boxes[k]) for k in keys),
        names=tuple(by_last[k].name if k in by_last else boxes[k].name for k in keys),
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


def _from_far(flow: _Flow, pair: tuple[int, int], ranks: Sequence[int] | None = None) -> bool:
    """Whether an edge comes from data to one of the last layers; then a note says so."""
    u, v = pair
    if not flow.is_source[u]:
        return False
    plain = rank_nodes(len(flow.pictures), flow.pairs) if ranks is None else ranks
    return plain[v] - plain[u] > LONGEST_FROM_SOURCE


def _cuts(flow: _Flow, ranks: Sequence[int]) -> list[set[int]]:
    """For each rank r the things whose data goes past the gap between r and r + 1."""
    passing: list[set[int]] = [set() for _ in range(max(ranks))]
    for u, v in flow.pairs:
        if not _from_far(flow, (u, v)):
            for rank in range(ranks[u], ranks[v]):
                passing[rank].add(u)
    return passing


def _divide(flow: _Flow, ranks: Sequence[int], count: int) -> list[list[int]]:
    """The things of each of `count` columns: columns about equally high, cut where little flows past."""
    heights = [0.0] * (max(ranks) + 1)
    for thing, rank in enumerate(ranks):
        heights[rank] = max(heights[rank], flow.pictures[thing].height + RANK_GAP)
    passing = _cuts(flow, ranks)
    ideal = sum(heights) / count

    def cost(start: int, stop: int) -> float:
        extra = max(len(passing[stop - 1]) - 1, 0) if stop < len(heights) else 0
        return (sum(heights[start:stop]) - ideal) ** 2 + extra * ideal**2

    # best[k][r]: the least cost of the ranks before r in k columns, and where the last of them starts.
    best: list[dict[int, tuple[float, int]]] = [{0: (0.0, 0)}]
    for _ in range(count):
        row: dict[int, tuple[float, int]] = {}
        for stop in range(1, len(heights) + 1):
            ways = [(total + cost(start, stop), start) for start, (total, _) in best[-1].items() if start < stop]
            if ways:
                row[stop] = min(ways)
        best.append(row)
    stop, spans = len(heights), []
    for row in best[:0:-1]:
        start = row[stop][1]
        spans.append((start, stop))
        stop = start
    return [[t for t, rank in enumerate(ranks) if start <= rank < stop] for start, stop in spans[::-1]]


def _in_columns(flow: _Flow, ranks: Sequence[int], count: int) -> Picture:
    columns = _divide(flow, ranks, count)
    links = [_link(flow, a, b, ranks) for a, b in zip(columns, columns[1:])]
    page, x, mouth = Picture(), 0.0, (0.0, 0.0)
    for members, enters, leaves in zip(columns, [None, *links], [*links, None]):
        column = _column(flow, members, enters, leaves).moved(x, TURN_GAP)
        if enters is not None:
            # Down out of the column before, up between the two, down into this one.
            turn, bottom, gate = x - COLUMN_GAP / 2, mouth[1] + TURN_GAP, x + column.enter
            points = (mouth, (mouth[0], bottom), (turn, bottom), (turn, 0.0), (gate, 0.0), (gate, TURN_GAP))
            page = replace(page, wires=(*page.wires, Wire(flow.names[enters], "", points)))
        mouth = (x + column.leave, TURN_GAP + column.height)
        page = replace(
            page.over(column),
            width=x + column.width,
            height=max(page.height, TURN_GAP + column.height + (TURN_GAP if leaves is not None else 0)),
        )
        x += column.width + COLUMN_GAP
    return page


def _link(flow: _Flow, column: Sequence[int], following: Sequence[int], ranks: Sequence[int]) -> int | None:
    """The thing of `column` whose data is drawn to flow on into the next column: the last one of those that do."""
    goes_on = [u for u, v in flow.pairs if u in column and v in following and not _from_far(flow, (u, v), ranks)]
    return max(goes_on, key=lambda thing: (ranks[thing], thing), default=None)


def _column(flow: _Flow, members: Sequence[int], enters: int | None, leaves: int | None) -> Picture:
    parts = {thing: flow.pictures[thing] for thing in members}
    names = {thing: flow.names[thing] for thing in members}
    edges: list[tuple[int, int]] = []
    notes: dict[tuple[int, str, int], int] = {}
    ranks = rank_nodes(len(flow.pictures), flow.pairs)
    for u, v, blob in flow.edges:
        if v not in parts:
            continue
        if u == enters:
            edges.append((ENTRY, v))
        elif u in parts and not _from_far(flow, (u, v)):
            edges.append((u, v))
        else:
            # Readers at the same height share a note.
            number = notes.setdefault((u, blob, ranks[v]), len(flow.pictures) + len(notes))
            source = flow.names[u]
            parts[number] = note_picture(f"from {source}" if blob == source else f"{blob} from {source}")
            edges.append((number, v))
    return arrange(parts, edges, names, enters is not None, leaves, side=0.25)


def _shortened(boxes: Sequence[Box], flow: _Flow, splits: Sequence[Split]) -> list[Box]:
    """The boxes with those of each stretch without a split made one, where that spares `FEWEST` boxes or more.

    A stretch is a run of blocks, and a block what lies between two places where all data comes from one thing.
    """
    ranks = rank_nodes(len(flow.pictures), [pair for pair in flow.pairs if not _from_far(flow, pair)])
    index = {box.name: number for number, box in enumerate(boxes)}
    ends = [rank for rank, sources in enumerate(_cuts(flow, ranks)) if len(sources) == 1] + [max(ranks)]
    stretches: list[list[int]] = [[]]
    start = 0
    for end in ends:
        block = [thing for thing, rank in enumerate(ranks) if start <= rank <= end]
        start = end + 1
        if any(flow.is_split[thing] for thing in block):
            stretches.append([])
        else:
            stretches[-1] += [index[flow.names[thing]] for thing in block if not flow.is_source[thing]]
    joined = {number: stretch for stretch in stretches if len(stretch) >= FEWEST for number in stretch}
    kept = [number for number in range(len(boxes)) if joined.get(number, [number])[0] == number]
    home = {number: kept.index(joined.get(number, [number])[0]) for number in range(len(boxes))}
    return [_joined(boxes, joined.get(number, [number]), home) for number in kept]


def _joined(boxes: Sequence[Box], numbers: Sequence[int], home: Mapping[int, int]) -> Box:
    members = [boxes[number] for number in numbers]
    inputs = [(home[u], blob) for box in members for u, blob in box.inputs if home[u] != home[numbers[0]]]
    if len(members) == 1:
        return replace(members[0], inputs=tuple(dict.fromkeys(inputs)))
    layers = tuple(layer for box in members for layer in box.layers)
    return Box(
        name=f"{members[0].name} to {members[-1].name}",
        layers=layers,
        role="plain",
        tag="",
        lines=(f"{len(layers)} layers, none of them split",),
        followers=(),
        inputs=tuple(dict.fromkeys(inputs)),
    )
