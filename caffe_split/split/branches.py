"""Linear branches beside the slow half: convolutions of X's bottom that are added to what X_split2 computes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.net.geometry import Geometry
from caffe_split.split import naming
from caffe_split.split.algebra import Array
from caffe_split.split.parts import Part, SlowPath, SplitContext


@dataclass(frozen=True)
class Branch:
    """Layers from X's bottom to a blob that is added to the slow half.

    `kernel` is what they compute, written in X's own geometry [slow kernels, channels / group, height, width]; None
    where it is not asked for, outside the exact start.
    """

    parts: tuple[Part, ...]
    kernel: Array | None


def beside(context: SplitContext, branches: Sequence[Branch]) -> SlowPath:
    """X_split2 and the branches, summed into a new top; the exact start takes the branches' kernels off X_split2's."""
    kernels = context.slow_target
    if context.exact:
        for branch in branches:
            assert branch.kernel is not None
            kernels = kernels.minus(branch.kernel)
    slow, top = context.slow_name, naming.total(context.name)
    parts = [part for branch in branches for part in branch.parts]
    ends = (slow, *(branch.parts[-1].top for branch in branches))
    return SlowPath((context.copy(slow, kernels), *parts, Part(top, "sum", ends, top)), top)


def random_start(context: SplitContext, *shape: int) -> Array:
    """Gaussian weights [slow kernels, *shape], as large as X's.

    Those of a kernel have the root mean square of the weights of X's kernel that it stands beside: a start that grows
    and shrinks with the net, and costs a small kernel no digits when it is taken off.
    """
    slow = context.original.rows(context.partition.slow).weight
    scale = np.sqrt(np.mean(slow.reshape(len(slow), -1) ** 2, axis=1))
    weight = context.noise.rng.standard_normal((len(slow), *shape))
    weight *= scale.reshape(-1, *(1,) * len(shape))
    return weight


def window(context: SplitContext, word: str, at: tuple[int, int], weight: Array) -> Branch:
    """One convolution that sees the places of X's kernel from `at` (row, column) on, as many as `weight` has.

    `weight` is [slow kernels, channels / group, rows, columns]. The layer is as small as its weight if the window is in
    the middle of X's kernel and X's padding reaches it: then its output has X's size for any input. Otherwise
    it has X's own geometry, and zeros at the other places to start with.
    """
    geometry = context.geometry
    (row, column), (height, width) = at, weight.shape[2:]
    inside = np.zeros((*weight.shape[:2], *geometry.kernel))
    inside[:, :, row : row + height, column : column + width] = weight
    pad_h, pad_w = (pad - place * step for pad, place, step in zip(geometry.pad, at, geometry.dilation))
    middle = all(2 * place + side == whole for place, side, whole in zip(at, (height, width), geometry.kernel))
    if middle and min(pad_h, pad_w) >= 0:
        # The dilation of a side of 1 does not count.
        steps = tuple(step if side > 1 else 1 for step, side in zip(geometry.dilation, (height, width)))
        small = Geometry((height, width), geometry.stride, (pad_h, pad_w), (steps[0], steps[1]), geometry.group)
        return Branch((context.convolution(word, small, weight),), inside)
    return Branch((context.convolution(word, geometry, inside),), inside)


def middle(geometry: Geometry) -> tuple[int, int]:
    """The place (row, column) in the middle of a kernel; of an even side k it is k // 2."""
    return geometry.kernel[0] // 2, geometry.kernel[1] // 2
