"""A whole net on a page: splits in frames, long nets in several columns."""

from __future__ import annotations

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace

from caffe_split.diagram.boxes import make_boxes
from caffe_split.diagram.flow import Flow, cuts, from_far, make_flow
from caffe_split.diagram.layered import RANK_GAP
from caffe_split.diagram.picture import ENTRY, Picture, Wire, arrange, aspect_distance, note_picture
from caffe_split.diagram.shorten import shortened
from caffe_split.diagram.splits import split_boxes
from caffe_split.errors import CaffeSplitError
from caffe_split.net.layers import Layer

COLUMN_GAP, TURN_GAP, MOST_COLUMNS = 34.0, 14.0, 16
# A page lower than this, in points, is not divided into more columns.
LOW_PAGE = 480.0


def net_page(
    layers: Sequence[Layer],
    whole: bool | None = None,
    aspect: float = 1.3,
    inputs: Mapping[str, Sequence[int]] | None = None,
) -> Picture:
    """The page of a phase's layers; `inputs` are shapes of blobs that no layer gives, as far as they are known.

    Unless `whole`, stretches without a split are a box each where there is any split, and blocks that repeat
    are drawn once where there is none. `aspect` is the wanted width / height, which sets the
    number of columns. Raises `CaffeSplitError` where `whole` is False and no layer is split.
    """
    boxes = make_boxes(layers, inputs)
    splits = split_boxes(layers, boxes)
    if whole is False and not splits:
        raise CaffeSplitError("no layer of the net was split; draw the whole net.")
    flow = make_flow(boxes, splits)
    if not whole:
        boxes = shortened(boxes, flow)
        splits = split_boxes(layers, boxes)
        flow = make_flow(boxes, splits)
    page = _in_columns(flow, 1)
    if page.height < LOW_PAGE:
        return page
    # k columns are about k times as wide and 1 / k times as high; counts near this guess are laid out and compared.
    guess = round(math.sqrt(aspect * page.height / page.width))
    most = min(MOST_COLUMNS, max(flow.ranks) + 1)
    counts = {min(max(guess + step, 1), most) for step in (-1, 0, 1)} - {1}
    pages = [page, *(_in_columns(flow, count) for count in sorted(counts))]
    return min(pages, key=lambda page: aspect_distance(page.width, page.height, aspect))


def _divide(flow: Flow, count: int) -> list[list[int]]:
    """The things of each of `count` columns: columns about equally high, cut where little flows past."""
    ranks = flow.ranks
    heights = [0.0] * (max(ranks) + 1)
    for thing, rank in enumerate(ranks):
        heights[rank] = max(heights[rank], flow.pictures[thing].height + RANK_GAP)
    passing = cuts(flow)
    sums = [0.0, *itertools.accumulate(heights)]
    ideal = sums[-1] / count

    def cost(start: int, stop: int) -> float:
        extra = max(len(passing[stop - 1]) - 1, 0) if stop < len(heights) else 0
        return (sums[stop] - sums[start] - ideal) ** 2 + extra * ideal**2

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


def _in_columns(flow: Flow, count: int) -> Picture:
    columns = _divide(flow, count)
    links = [_link(flow, a, b) for a, b in zip(columns, columns[1:])]
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


def _link(flow: Flow, column: Sequence[int], following: Sequence[int]) -> int | None:
    """The thing of `column` whose data is drawn to flow on into the next column: the last one of those that do."""
    goes_on = [u for u, v in flow.pairs if u in column and v in following and not from_far(flow, (u, v))]
    return max(goes_on, key=lambda thing: (flow.ranks[thing], thing), default=None)


def _column(flow: Flow, members: Sequence[int], enters: int | None, leaves: int | None) -> Picture:
    parts = {thing: flow.pictures[thing] for thing in members}
    names = {thing: flow.names[thing] for thing in members}
    edges: list[tuple[int, int]] = []
    notes: dict[tuple[int, str, int], int] = {}
    ranks = flow.all_ranks
    for u, v, blob in flow.edges:
        if v not in parts:
            continue
        if u == enters:
            edges.append((ENTRY, v))
        elif u in parts and not from_far(flow, (u, v)):
            edges.append((u, v))
        else:
            # Readers at the same height share a note.
            number = notes.setdefault((u, blob, ranks[v]), len(flow.pictures) + len(notes))
            source = flow.names[u]
            parts[number] = note_picture(f"from {source}" if blob == source else f"{blob} from {source}")
            edges.append((number, v))
    return arrange(parts, edges, names, enters is not None, leaves, side=0.25)
