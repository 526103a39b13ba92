"""Layers with a window that slides over the spatial axes: convolution, pooling and their kin."""

from __future__ import annotations

import math
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.rule import Found, Shape, Untold, axis_of, bottoms_of, param_of, with_bias
from caffe_split.net.layers import Layer


@dataclass(frozen=True)
class Window:
    """The window of a convolution or a pooling, a number for each spatial axis."""

    kernel: Shape
    stride: Shape
    pad: Shape
    dilation: Shape

    def slide(self, sizes: Shape) -> Shape:
        """How often it fits into each side, rounded down."""
        return tuple(
            (n + 2 * p - (d * (k - 1) + 1)) // s + 1
            for n, k, s, p, d in zip(sizes, self.kernel, self.stride, self.pad, self.dilation)
        )

    def spread(self, sizes: Shape) -> Shape:
        """The sides that it slid over if it fits so often."""
        return tuple(
            s * (n - 1) + d * (k - 1) + 1 - 2 * p
            for n, k, s, p, d in zip(sizes, self.kernel, self.stride, self.pad, self.dilation)
        )


def window_of(layer: Layer, param: prototxt.Message, rank: int) -> Window:
    """The window that a convolution's settings give over `rank` spatial axes. Raises `CaffeSplitError`."""
    if rank < 1:
        raise CaffeSplitError(f"{layer.where}: its bottom has no axis to slide over.")
    window = Window(
        _sides(layer, param, "kernel_size", ("kernel_h", "kernel_w"), rank, 0),
        _sides(layer, param, "stride", ("stride_h", "stride_w"), rank, 1),
        _sides(layer, param, "pad", ("pad_h", "pad_w"), rank, 0),
        _sides(layer, param, "dilation", (), rank, 1),
    )
    if min(window.kernel) < 1 or min(window.stride) < 1:
        raise CaffeSplitError(f"{layer.where} gives no kernel_size, or a stride of 0.")
    return window


def _sides(layer: Layer, param: prototxt.Message, both: str, two: tuple[str, ...], rank: int, default: int) -> Shape:
    written = [key for key in two if param.has(key)]
    if written:
        if rank != 2:
            raise CaffeSplitError(f"{layer.where}: {' and '.join(written)} for {rank} spatial axes; write {both}.")
        return tuple(int(param.get(key, default)) for key in two)
    values = tuple(int(value) for value in param.get_all(both)) or (default,)
    if len(values) not in (1, rank):
        raise CaffeSplitError(f"{layer.where}: {len(values)} values of {both} for {rank} spatial axes.")
    return values * rank if len(values) == 1 else values


def _fits(layer: Layer, sizes: Shape, bottom: Shape) -> Shape:
    if min(sizes) < 1:
        raise CaffeSplitError(f"{layer.where}: its kernel does not fit into its bottom of {_by(bottom)}.")
    return sizes


def _by(sizes: Shape) -> str:
    return "x".join(map(str, sizes))


def convolution(layer: Layer, bottoms: list[Shape]) -> Found:
    """Weight (kernels, channels / group, *kernel); Deconvolution (channels, kernels / group, *kernel)."""
    bottoms_of(layer, bottoms, 1)
    if not layer.message.has("convolution_param"):
        raise CaffeSplitError(f"{layer.where} is a {layer.type} without convolution_param.")
    param = param_of(layer, "convolution_param")
    bottom = bottoms[0]
    axis = axis_of(param.get("axis", 1), len(bottom), layer)
    window = window_of(layer, param, len(bottom) - axis - 1)
    channels, count, group = bottom[axis], int(param.get("num_output", 0)), int(param.get("group", 1))
    if count < 1 or group < 1 or channels % group or count % group:
        raise CaffeSplitError(
            f"{layer.where}: {channels} input channels and {count} kernels do not divide into {group} groups."
        )
    sizes = bottom[axis + 1 :]
    upwards = layer.type == "Deconvolution"
    out = _fits(layer, window.spread(sizes) if upwards else window.slide(sizes), sizes)
    weight = (channels, count // group, *window.kernel) if upwards else (count, channels // group, *window.kernel)
    places = sizes if upwards else out
    return Found(
        [(*bottom[:axis], count, *out)] * len(layer.tops),
        with_bias(weight, (count,), bool(param.get("bias_term", True))),
        macs=math.prod(weight) * math.prod(places) * math.prod(bottom[1:axis]),
    )


def im2col(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    param = param_of(layer, "convolution_param")
    axis = axis_of(param.get("axis", 1), len(bottoms[0]), layer)
    sizes = bottoms[0][axis + 1 :]
    window = window_of(layer, param, len(sizes))
    columns = bottoms[0][axis] * math.prod(window.kernel)
    return Found([(*bottoms[0][:axis], columns, *_fits(layer, window.slide(sizes), sizes))])


def pooling(layer: Layer, bottoms: list[Shape]) -> Found:
    bottoms_of(layer, bottoms, 1)
    if not layer.message.has("pooling_param"):
        raise CaffeSplitError(f"{layer.where} is a Pooling without pooling_param.")
    if len(bottoms[0]) != 4:
        raise Untold(f"its bottom has shape {bottoms[0]}; Caffe pools (N, C, H, W) only")
    param, (batch, channels, *sizes) = param_of(layer, "pooling_param"), bottoms[0]
    _, sides = pooling_window(layer, param, tuple(sizes))
    return Found([(batch, channels, *_fits(layer, sides, tuple(sizes)))] * len(layer.tops))


def pooling_window(layer: Layer, param: prototxt.Message, sizes: Shape) -> tuple[Window, Shape]:
    """The window of a pooling over an image of `sizes`, and how often it fits. Raises `CaffeSplitError`."""
    if param.get("global_pooling", False):
        return Window(sizes, (1, 1), (0, 0), (1, 1)), (1, 1)
    kernel, stride, pad = (
        tuple(int(param.get(f"{key}_{axis}", 0) or param.get(both, usual)) for axis in "hw")
        for key, both, usual in (("kernel", "kernel_size", 0), ("stride", "stride", 1), ("pad", "pad", 0))
    )
    if min(kernel) < 1 or min(stride) < 1:
        raise CaffeSplitError(
            f"{layer.where} gives no kernel_size, not both of kernel_h and kernel_w, or a stride of 0."
        )
    ceil = str(param.get("round_mode", "CEIL")) == "CEIL"
    sides = []
    for n, k, s, p in zip(sizes, kernel, stride, pad):
        side = (n + 2 * p - k + (s - 1 if ceil else 0)) // s + 1
        # Caffe drops a last window that would start in the padding; it looks when either side is padded.
        if any(pad) and (side - 1) * s >= n + p:
            side -= 1
        sides.append(side)
    return Window(kernel, stride, pad, (1, 1)), tuple(sides)


def spatial_pyramid(layer: Layer, bottoms: list[Shape]) -> Found:
    """1 + 4 + 16 + ... values a channel, for as many levels as the pyramid has; one level alone stays an image."""
    bottoms_of(layer, bottoms, 1, axes=4)
    height = int(param_of(layer, "spp_param").get("pyramid_height", 1))
    values = bottoms[0][1] * sum(4**level for level in range(height))
    return Found([(bottoms[0][0], values, 1, 1) if height == 1 else (bottoms[0][0], values)])
