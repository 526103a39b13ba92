"""Skip: the slow half gains X_split2_skip of the bottom, a frozen identity."""

from __future__ import annotations

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.net.geometry import Geometry
from caffe_split.split import naming
from caffe_split.split.algebra import Array, aligned_position, identity_channels
from caffe_split.split.parts import BOTTOM, Kind, Part, SlowPath, SplitContext

SKIP = "skip"


def slow_path(context: SplitContext) -> SlowPath:
    """X_split2 + skip(B), summed into a new top; the exact start takes the skip's kernel off X_split2's."""
    slow, name = context.slow_name, naming.added(context.name, SKIP)
    skip = _skip(context, name)
    kernels = context.slow_target
    if context.exact:
        kernels = kernels.minus(_inside(context))
    top = naming.total(context.name)
    return SlowPath((context.copy(slow, kernels), skip, Part(top, "sum", (slow, name), top)), top)


def _window(context: SplitContext) -> tuple[int, int]:
    """Sides of the square of input pixels that one output pixel of the skip averages."""
    return context.geometry.stride if context.skip_pool == "average" else (1, 1)


def _skip(context: SplitContext, name: str) -> Part:
    """The skip layer: small (1x1, or stride x stride to average) where its output's size equals X's, else as X."""
    geometry, (height, width) = context.geometry, _window(context)
    small = Geometry((height, width), geometry.stride)
    if not _same_sizes(context, small):
        return Part(
            name,
            "helper",
            (context.bottom,),
            name,
            context.slow_count,
            geometry,
            frozen=True,
            blobs=(_inside(context),),
        )
    weight = np.zeros((context.slow_count, context.channels, height, width))
    for row, channel in enumerate(_channels(context)):
        if channel is not None:
            weight[row, channel] = 1.0 / (height * width)
    return Part(name, "helper", (context.bottom,), name, context.slow_count, small, frozen=True, blobs=(weight,))


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
