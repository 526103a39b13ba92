"""History for the parameters that a split adds, from the history of the layer that was split.

A solver that divides by the root of past squared gradients takes its largest steps where it remembers none. What a new
parameter's squared gradients would have been follows from those of X's kernels: X's kernel W[o, t] (output o; place and
channel t) depends on a parameter p of the split, so p's gradient is the sum of dW[o, t]/dp times W[o, t]'s over all o
and t. If these summands are taken as independent,

    squares(p) = sum of (dW[o, t]/dp)^2 * squares(W[o, t])

For a 1x1 layer E at the end of a path, after kernels K, that is squares(E[i, j]) = sum over t of
K[j, t]^2 * squares(W[i, t]); for a convolution of X's bottom whose output is added to X's, squares(W) itself.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_split.split.algebra import Array
from caffe_split.split.parts import Part

# A layer's name and the place of the blob among its blobs.
Slot = tuple[str, int]
_TINY = 1e-30


def squares(parts: Sequence[Part], weight: np.ndarray, bias: np.ndarray | None) -> dict[Slot, Array]:
    """The squared gradients of each parameter of a split of X, in the blobs' shapes, from those of X's own.

    `weight` is [n, channels / group, height, width], `bias` [n] or None where X has none.
    """
    return _Walk(parts).back(weight, bias)


def squared_steps(parts: Sequence[Part], weight: np.ndarray, bias: np.ndarray | None) -> dict[Slot, Array]:
    """The same for AdaDelta's squared steps: a new parameter's step moves X's kernels as far as X's own steps did."""
    walk = _Walk(parts)
    reach = walk.back(np.ones_like(weight), None if bias is None else np.ones_like(bias))
    return {slot: found / np.maximum(reach[slot] ** 2, _TINY) for slot, found in walk.back(weight, bias).items()}


class _Walk:
    """A split run forward to what each blob is of X's bottom, and backward to what X's top is of each blob.

    The former is a table [channels of the blob, columns]: kernels in X's own geometry, all channels of the bottom, and
    in the last column the bias. What lies outside of X's kernel is left out. The latter is a matrix [n, channels].
    """

    def __init__(self, parts: Sequence[Part]) -> None:
        first = next(part for part in parts if part.form == "copy")
        assert first.geometry is not None
        self.parts, self.geometry = parts, first.geometry
        self.sides = (first.blobs[0].shape[1] * self.geometry.group, *self.geometry.kernel)
        # Per part the tables of its bottoms, None for X's bottom; by its name the weights of a convolution.
        self.inputs: list[list[Array | None]] = []
        self.dense = {part.name: _dense(part) for part in parts if part.is_convolution}
        # What a BatchNorm divides by, as the Scale after it undoes it.
        self.spread = {
            norm.name: np.asarray(scale.blobs[0]) + _TINY
            for norm, scale in zip(parts, parts[1:])
            if norm.form == "batch_norm"
        }
        self.pointwise = {part.top: part.name for part in parts if _reads_pixels(part, first.bottoms)}
        self.read_by_larger = {
            part.bottoms[0]: part
            for part in parts
            if part.is_convolution and part.bottoms[0] in self.pointwise and part.blobs[0].shape[2:] != (1, 1)
        }
        tables: dict[str, Array | None] = {first.bottoms[0]: None}
        for part in parts:
            self.inputs.append([tables[name] for name in part.bottoms])
            tables[part.top] = self._forward(part, self.inputs[-1])

    def _forward(self, part: Part, inputs: Sequence[Array | None]) -> Array:
        first = inputs[0]
        given = [each for each in inputs if each is not None]
        if part.is_convolution:
            dense = self.dense[part.name]
            if first is not None and dense.shape[2:] == (1, 1):
                return np.asarray(dense[:, :, 0, 0] @ first)
            if first is not None:
                below = self.dense[self.pointwise[part.bottoms[0]]][:, :, 0, 0]
                dense = np.einsum("ijpq,jc->icpq", dense, below)
            bias = np.asarray(part.blobs[1]) if len(part.blobs) > 1 else np.zeros(len(dense))
            return np.column_stack([self._placed(part, dense).reshape(len(dense), -1), bias])
        if part.form == "batch_norm":
            centred = given[0].copy()
            centred[:, -1] -= part.blobs[0]
            return centred / self.spread[part.name][:, None]
        if part.form == "scale":
            scaled = given[0] * np.asarray(part.blobs[0])[:, None]
            scaled[:, -1] += part.blobs[1]
            return np.asarray(scaled)
        return np.concatenate(given) if part.form == "concat" else np.asarray(np.sum(given, axis=0))

    def _places(self, part: Part) -> list[tuple[tuple[int, int], tuple[int, int]]]:
        """Pairs of places, in the part's kernel and in X's, that lie on the same pixel."""
        assert part.geometry is not None
        own, found = self.geometry, []
        for place in np.ndindex(*part.geometry.kernel):
            row, column = (
                (i * step - pad + own_pad) / own_step
                for i, step, pad, own_pad, own_step in zip(
                    place, part.geometry.dilation, part.geometry.pad, own.pad, own.dilation
                )
            )
            if row in range(own.kernel[0]) and column in range(own.kernel[1]):
                found.append(((place[0], place[1]), (int(row), int(column))))
        return found

    def _placed(self, part: Part, dense: Array) -> Array:
        """Kernels [m, C, ...] of a convolution of X's bottom in X's geometry."""
        placed = np.zeros((len(dense), *self.sides))
        for (i, j), (row, column) in self._places(part):
            placed[:, :, row, column] = dense[:, :, i, j]
        return placed

    def _taken(self, part: Part, table: Array) -> Array:
        """The reverse: a table's kernels at the places of the part's kernel; elsewhere their mean."""
        assert part.geometry is not None
        kernels = table[:, :-1].reshape(-1, *self.sides)
        mean = kernels.mean(axis=(2, 3))[:, :, None, None]
        taken = np.broadcast_to(mean, (*kernels.shape[:2], *part.geometry.kernel)).copy()
        for (i, j), (row, column) in self._places(part):
            taken[:, :, i, j] = kernels[:, :, row, column]
        return taken

    def back(self, weight: np.ndarray, bias: np.ndarray | None) -> dict[Slot, Array]:
        """For each parameter the sum of (dW/dp)^2 times the numbers given, those of X's weight and bias."""
        whole = _for_all_channels(np.asarray(weight, np.float64), self.geometry.group)
        last = np.zeros(len(whole)) if bias is None else np.asarray(bias, np.float64).reshape(-1)
        given = np.column_stack([whole.reshape(len(whole), -1), last])
        reached = {self.parts[-1].top: np.eye(len(whole))}
        found: dict[Slot, Array] = {}
        for part, inputs in zip(reversed(self.parts), reversed(self.inputs)):
            above = reached.pop(part.top)
            self._enter(part, inputs[0], above, given, found)
            if part.form == "scale" and bias is None:
                # Without a bias nothing says how large a shift's gradient is: it is taken to be as large as that of the
                # factor, whose input the BatchNorm has brought to size 1.
                found[part.name, 1] = found[part.name, 0]
            tables = [(bottom, table) for bottom, table in zip(part.bottoms, inputs) if table is not None]
            below = self._below(part, above) if tables else above
            start = 0
            for bottom, table in tables:
                columns = below[:, start : start + len(table)] if part.form == "concat" else below
                start += len(table)
                reached[bottom] = reached[bottom] + columns if bottom in reached else columns
        return found

    def _below(self, part: Part, above: Array) -> Array:
        """What X's top is of a part's bottom, from what it is of its top."""
        if part.form == "batch_norm":
            return above / self.spread[part.name]
        if part.form == "scale":
            return np.asarray(above * part.blobs[0])
        # The 1x1 layer below a larger one looks at that one's weights itself.
        small = part.is_convolution and self.dense[part.name].shape[2:] == (1, 1)
        return np.asarray(above @ self.dense[part.name][:, :, 0, 0]) if small else above

    def _enter(self, part: Part, first: Array | None, above: Array, given: Array, found: dict[Slot, Array]) -> None:
        """Enter what a part's own parameters get into `found`."""
        if part.form != "scale" and not part.is_convolution:
            return
        mine = np.square(above).T @ given if part.top not in self.read_by_larger else given
        if part.form == "scale":
            assert first is not None
            found[part.name, 0], found[part.name, 1] = (np.square(first) * mine).sum(axis=1), mine[:, -1]
            return
        assert part.geometry is not None
        if len(part.blobs) > 1:
            found[part.name, 1] = mine[:, -1]
        if first is not None and self.dense[part.name].shape[2:] == (1, 1):
            own = (mine @ np.square(first).T)[:, :, None, None]
        elif first is not None:
            through = self.dense[self.pointwise[part.bottoms[0]]][:, :, 0, 0]
            own = np.einsum("icpq,jc->ijpq", self._taken(part, mine), np.square(through))
        elif part.top in self.read_by_larger:
            larger = self.read_by_larger[part.top]
            reach = np.einsum("oi,ijpq->ojpq", above, self.dense[larger.name])
            own = np.einsum("ojpq,ocpq->jc", np.square(reach), self._taken(larger, given))[:, :, None, None]
        else:
            own = self._taken(part, mine)
        found[part.name, 0] = _blocks(own, part.geometry.group)


def _reads_pixels(part: Part, bottoms: tuple[str, ...]) -> bool:
    return part.is_convolution and part.bottoms == bottoms and part.blobs[0].shape[2:] == (1, 1)


def _dense(part: Part) -> Array:
    """The weights of a convolution written with one group: zeros where a kernel does not see a channel."""
    assert part.geometry is not None
    weight, group = np.asarray(part.blobs[0], np.float64), part.geometry.group
    return _in_groups(weight, group, np.zeros((len(weight), weight.shape[1] * group, *weight.shape[2:])))


def _for_all_channels(weight: Array, group: int) -> Array:
    """X's numbers [n, C / group, ...] for all channels [n, C, ...]: of other groups' channels a kernel's mean."""
    mean = weight.mean(axis=(1, 2, 3))[:, None, None, None]
    return _in_groups(weight, group, np.zeros((len(weight), weight.shape[1] * group, *weight.shape[2:])) + mean)


def _in_groups(weight: Array, group: int, dense: Array) -> Array:
    per_group = weight.shape[1]
    for g, rows in enumerate(np.split(np.arange(len(weight)), group)):
        dense[rows, g * per_group : (g + 1) * per_group] = weight[rows]
    return dense


def _blocks(dense: Array, group: int) -> Array:
    """The numbers of a grouped convolution [n, C / group, ...] out of those with one group."""
    per_group = dense.shape[1] // group
    rows = np.split(np.arange(len(dense)), group)
    return np.concatenate([dense[each, g * per_group : (g + 1) * per_group] for g, each in enumerate(rows)])
