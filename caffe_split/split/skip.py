"""Skip: the slow half gains X_split2_skip of the bottom, a frozen identity."""

from __future__ import annotations

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.net.geometry import Geometry
from caffe_split.split.algebra import Array, aligned_position, identity_channels
from caffe_split.split.branches import Branch, beside
from caffe_split.split.parts import BOTTOM, Kind, SlowPath, SplitContext

SKIP = "skip"


def slow_path(context: SplitContext) -> SlowPath:
    """X_split2 + skip(B)."""
    return beside(context, [identity_branch(context, SKIP)])


def identity_branch(context: SplitContext, word: str, learns: bool = False) -> Branch:
    """A convolution that carries input channel i over to the slow kernel that is X's kernel i.

    Small (1x1, or stride x stride to average) where its output's size equals X's, otherwise in X's own geometry. One
    that `learns` has X's groups, so that it never sees other channels than X; a frozen one is written without groups.
    """
    geometry, (height, width) = context.geometry, _window(context)
    small = Geometry((height, width), geometry.stride, group=geometry.group if learns else 1)
    fits = _same_sizes(context, small)
    # In the studies' start nothing is taken off, and a small window need not fit X's kernel.
    inside = _inside(context) if context.exact or not fits else None
    if not fits:
        assert inside is not None
        return Branch((context.convolution(word, geometry, inside, frozen=not learns),), inside)
    per_group = context.channels // small.group
    weight = np.zeros((context.slow_count, per_group, height, width))
    for row, channel in enumerate(_channels(context)):
        if channel is not None:
            weight[row, channel % per_group] = 1.0 / (height * width)
    return Branch((context.convolution(word, small, weight, frozen=not learns),), inside)


def _window(context: SplitContext) -> tuple[int, int]:
    """Sides of the square of input pixels that one output pixel of the skip averages."""
    return context.geometry.stride if context.skip_pool == "average" else (1, 1)


def _same_sizes(context: SplitContext, small: Geometry) -> bool:
    """Whether `small` gives X's output size in all nets.

    A 1x1 does beside every X of 'same' geometry, a larger one where its stride divides the input's size.
    """
    if small.kernel == (1, 1):
        return context.geometry.is_same
    sizes = context.input_sizes
    return (
        bool(sizes)
        and context.geometry.is_same
        and all(size is not None and small.slide(size) == context.geometry.slide(size) for size in sizes)
    )


def _channels(context: SplitContext) -> list[int | None]:
    return identity_channels(
        context.partition.slow, len(context.original.weight), context.channels, context.geometry.group
    )


def _inside(context: SplitContext) -> Array:
    """The skip written in X's own geometry [slow kernels, channels / group, height, width].

    Raises `CaffeSplitError` where X's kernel does not reach all pixels that the skip looks at.
    """
    geometry, (height, width) = context.geometry, _window(context)
    row, column = aligned_position(geometry, f"layer '{context.name}'")
    fits = row + height <= geometry.kernel[0] and column + width <= geometry.kernel[1]
    if not fits or ((height, width) != (1, 1) and geometry.dilation != (1, 1)):
        raise CaffeSplitError(
            f"layer '{context.name}': the {height}x{width} window of an averaging skip does not fit its kernel "
            f"{geometry.kernel} (pad {geometry.pad}, dilation {geometry.dilation}). Use --skip-pool stride."
        )
    per_group = context.channels // geometry.group
    weight = np.zeros((context.slow_count, per_group, *geometry.kernel))
    for index, channel in enumerate(_channels(context)):
        if channel is not None:
            weight[index, channel % per_group, row : row + height, column : column + width] = 1.0 / (height * width)
    return weight


KIND = Kind(slow_path, reads={SKIP: BOTTOM})
