"""Layered layout of a small acyclic graph of sized nodes, flowing down the page.

The steps are those of Sugiyama, Tagawa and Toda (1981): ranks, bends in long edges, order within ranks by the
barycentre rule, then x by least squares that keep the order. Lengths are points; y grows downwards.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

RANK_GAP, NODE_GAP, BEND_GAP = 16.0, 10.0, 9.0
# Sweeps for the order, and the most sweeps for x, which end when no node moves further than `_STILL`.
_SWEEPS, _SETTLINGS, _STILL = 16, 150, 0.05

Point = tuple[float, float]
Edge = tuple[int, int]


@dataclass(frozen=True)
class Node:
    """A box to be placed: its size, and where along its width edges come in (top) and go out (bottom).

    `pin` may be 'first' or 'last': the rank in which it has to stand.
    """

    width: float
    height: float
    enter: float
    leave: float
    pin: str = ""


@dataclass(frozen=True)
class Placed:
    """Upper left corners by node, waypoints by edge (from the source's bottom to the target's top), the size."""

    corners: tuple[Point, ...]
    wires: dict[Edge, tuple[Point, ...]]
    width: float
    height: float


def rank_nodes(count: int, edges: Sequence[Edge]) -> list[int]:
    """Rank of each node: one below its lowest source; a node without sources just above its highest target.

    Every edge (u, v) has u < v: nodes are in topological order.
    """
    ranks = [0] * count
    for u, v in sorted(edges, key=lambda edge: edge[1]):
        ranks[v] = max(ranks[v], ranks[u] + 1)
    entered = {v for _, v in edges}
    highest: dict[int, int] = {}
    for u, v in edges:
        highest[u] = min(highest.get(u, ranks[v]), ranks[v])
    for node, rank in highest.items():
        if node not in entered:
            ranks[node] = rank - 1
    return ranks


def place(nodes: Sequence[Node], edges: Sequence[Edge], side: float = 1.0) -> Placed:
    """Places for all nodes so that none overlap and every edge runs downwards.

    Where edges meet, the first goes on straight down; `side`, up to 1, is how much the others pull beside it.
    """
    if not nodes:
        return Placed((), {}, 0.0, 0.0)
    graph = _Graph(nodes, edges, side)
    graph.order()
    xs = graph.columns()
    return graph.result(xs)


class _Graph:
    """The graph with a bend node in every rank that an edge passes."""

    def __init__(self, nodes: Sequence[Node], edges: Sequence[Edge], side: float) -> None:
        self.count, self.nodes, self.side = len(nodes), list(nodes), side
        ranks = rank_nodes(len(nodes), edges)
        for number, pinned in enumerate(nodes):
            ranks[number] = {"first": 0, "last": max(ranks)}.get(pinned.pin, ranks[number])
        self.paths: dict[Edge, list[int]] = {}
        for u, v in edges:
            path = [u]
            for rank in range(ranks[u] + 1, ranks[v]):
                path.append(len(self.nodes))
                self.nodes.append(Node(0.0, 0.0, 0.0, 0.0))
                ranks.append(rank)
            self.paths[u, v] = [*path, v]
        self.above: list[list[int]] = [[] for _ in self.nodes]
        self.below: list[list[int]] = [[] for _ in self.nodes]
        for path in self.paths.values():
            for a, b in zip(path, path[1:]):
                self.below[a].append(b)
                self.above[b].append(a)
        self.rows: list[list[int]] = [[] for _ in range(max(ranks) + 1)]
        for node, rank in enumerate(ranks):
            self.rows[rank].append(node)

    def order(self) -> None:
        """Order each row by the mean place of its neighbours, down and up; the order with fewest crossings stays."""
        self._depth_first()
        best, fewest = [list(row) for row in self.rows], self._crossings()
        for sweep in range(_SWEEPS):
            if not fewest:
                break
            down = sweep % 2 == 0
            near = self.above if down else self.below
            rows = self.rows if down else self.rows[::-1]
            for before, row in zip(rows, rows[1:]):
                place = {node: index for line in (before, row) for index, node in enumerate(line)}
                centre = {
                    node: sum(place[n] for n in near[node]) / len(near[node]) if near[node] else place[node]
                    for node in row
                }
                row.sort(key=lambda node: centre[node])
            crossings = self._crossings()
            if crossings < fewest:
                best, fewest = [list(row) for row in self.rows], crossings
        self.rows = best

    def _depth_first(self) -> None:
        """Branches side by side, in the order in which the net has them."""
        seen: dict[int, int] = {}
        stack = [node for row in self.rows for node in row if not self.above[node]][::-1]
        while stack:
            node = stack.pop()
            if node not in seen:
                seen[node] = len(seen)
                stack += self.below[node][::-1]
        for row in self.rows:
            row.sort(key=lambda node: seen[node])

    def _crossings(self) -> int:
        total = 0
        for row, following in zip(self.rows, self.rows[1:]):
            place = {node: index for index, node in enumerate(following)}
            ends = [sorted(place[n] for n in self.below[node]) for node in row]
            flat: list[int] = []
            for targets in ends:
                total += sum(1 for target in targets for earlier in flat if earlier > target)
                flat += targets
        return total

    def columns(self) -> list[float]:
        """X of every node's left side: each row again and again to where its neighbours would have it."""
        xs = [0.0] * len(self.nodes)
        for row in self.rows:
            self._settle(row, [0.0] * len(row), [1.0] * len(row), xs)
        for sweep in range(_SETTLINGS):
            before = list(xs)
            rows = self.rows if sweep % 2 == 0 else self.rows[::-1]
            both = sweep >= 6
            for row in rows:
                wanted, weights = [], []
                for node in row:
                    x, weight = self._wish(node, xs, both or sweep % 2 == 0, both or sweep % 2 == 1)
                    wanted.append(x)
                    weights.append(weight)
                self._settle(row, wanted, weights, xs)
            if both and max(abs(x - old) for x, old in zip(xs, before)) < _STILL:
                break
        least = min(xs)
        return [x - least for x in xs]

    def _wish(self, node: int, xs: Sequence[float], up: bool, down: bool) -> tuple[float, float]:
        """Where the node would stand straight under and over its neighbours, and how much that matters."""
        own = self.nodes[node]
        pulls = []
        for near in self.above[node] if up else []:
            pulls.append((xs[near] + self.nodes[near].leave - own.enter, self._weight(node, near)))
        for near in self.below[node] if down else []:
            pulls.append((xs[near] + self.nodes[near].enter - own.leave, self._weight(node, near)))
        if not pulls:
            return xs[node], 0.1
        total = sum(weight for _, weight in pulls)
        return sum(x * weight for x, weight in pulls) / total, total

    def _weight(self, a: int, b: int) -> float:
        """Long edges are to be straight, so bends hold together."""
        upper, lower = (a, b) if b in self.below[a] else (b, a)
        first = 1.0 if self.above[lower][0] == upper else self.side
        return first * (1.0, 2.0, 8.0)[(a >= self.count) + (b >= self.count)]

    def _settle(self, row: Sequence[int], wanted: Sequence[float], weights: Sequence[float], xs: list[float]) -> None:
        """The x nearest to those wanted, by weighted squares, that keep the row's order and its gaps.

        With the widths taken off it is isotonic regression, which pooling adjacent violators solves.
        """
        offsets, offset = [], 0.0
        for index, node in enumerate(row):
            if index:
                bend = node >= self.count or row[index - 1] >= self.count
                offset += self.nodes[row[index - 1]].width + (BEND_GAP if bend else NODE_GAP)
            offsets.append(offset)
        pools: list[tuple[float, float, int]] = []  # (mean, weight, how many)
        for want, weight, off in zip(wanted, weights, offsets):
            pools.append((want - off, weight, 1))
            while len(pools) > 1 and pools[-2][0] > pools[-1][0]:
                (m1, w1, n1), (m2, w2, n2) = pools[-2:]
                pools[-2:] = [((m1 * w1 + m2 * w2) / (w1 + w2), w1 + w2, n1 + n2)]
        values = [mean for mean, _, many in pools for _ in range(many)]
        for node, value, off in zip(row, values, offsets):
            xs[node] = value + off

    def result(self, xs: Sequence[float]) -> Placed:
        heights = [max(self.nodes[node].height for node in row) for row in self.rows]
        tops, y = [], 0.0
        for height in heights:
            tops.append(y)
            y += height + RANK_GAP
        row_of = {node: index for index, row in enumerate(self.rows) for node in row}
        corners = tuple((xs[node], tops[row_of[node]]) for node in range(self.count))
        wires = {}
        for (u, v), path in self.paths.items():
            points: list[Point] = []
            for node in path:
                top, bottom = tops[row_of[node]], tops[row_of[node]] + heights[row_of[node]]
                if node == u:
                    x = xs[node] + self.nodes[node].leave
                    points += [(x, top + self.nodes[node].height), (x, bottom)]
                elif node == v:
                    points.append((xs[node] + self.nodes[node].enter, top))
                else:
                    points += [(xs[node], top), (xs[node], bottom)]
            wires[u, v] = tuple(dict.fromkeys(points))
        width = max(xs[node] + self.nodes[node].width for node in range(len(self.nodes)))
        return Placed(corners, wires, width, y - RANK_GAP)
