"""Convolutions, depthwise ones of forks too, and Im2col: a kernel over the spatial axes after that of the channels."""

from __future__ import annotations

import math

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import along, by_record
from caffe_split.layertypes.checks import ENGINE
from caffe_split.layertypes.record import ANY, Engine, LayerType, always
from caffe_split.layertypes.shape_rules import (
    Found,
    Shape,
    axis_of,
    need_bottoms,
    need_images,
    need_one_shape,
    need_options,
    with_bias,
)
from caffe_split.layertypes.words import side, size
from caffe_split.net.geometry import convolution_geometry, convolution_window
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _convolution(layer: Layer, bottoms: list[Shape]) -> Found:
    """Weight (kernels, channels / group, *kernel); Deconvolution (channels, kernels / group, *kernel)."""
    need_bottoms(layer, bottoms, 1)
    need_options(layer, "convolution_param")
    need_one_shape(layer, bottoms)
    param = Options.of(layer.message, "convolution_param")
    bottom = bottoms[0]
    axis = axis_of(param.get("axis"), len(bottom), layer)
    window = convolution_window(layer, len(bottom) - axis - 1)
    channels, count, group = bottom[axis], int(param.get("num_output")), int(param.get("group"))
    if count < 1:
        raise CaffeSplitError(f"{layer.where}: num_output is {count}, expected 1 or more.")
    if group < 1 or channels % group or count % group:
        raise CaffeSplitError(
            f"{layer.where}: {channels} input channels and {count} kernels do not divide into {group} groups."
        )
    sizes = bottom[axis + 1 :]
    upwards = layer.type.startswith("Deconvolution")
    out = fitting(layer, window.spread(sizes) if upwards else window.slide(sizes), sizes)
    weight = (channels, count // group, *window.kernel) if upwards else (count, channels // group, *window.kernel)
    places = sizes if upwards else out
    return Found(
        [(*bottom[:axis], count, *out)] * len(layer.tops),
        with_bias(weight, (count,), bool(param.get("bias_term"))),
        macs=math.prod(weight) * math.prod(places) * math.prod(bottom[:axis]) * len(bottoms),
    )


def _depthwise(layer: Layer, bottoms: list[Shape]) -> Found:
    """Weight (channels, 1, *kernel): each channel has its own kernel, whether or not `group` says so."""
    need_images(layer, bottoms, 1)
    need_options(layer, "convolution_param")
    param = Options.of(layer.message, "convolution_param")
    bottom = bottoms[0]
    if axis_of(param.get("axis"), 4, layer) != 1:
        raise CaffeSplitError(f"{layer.where}: axis {param.get('axis')}; a {layer.type} has its channels on axis 1.")
    channels, count = bottom[1], int(param.get("num_output"))
    group = int(param.get("group")) if param.has("group") else channels
    if not count == group == channels:
        raise CaffeSplitError(
            f"{layer.where}: num_output {count} and group {group} for {channels} channels; a {layer.type} has one "
            "kernel per channel: all three are equal, or group is left out."
        )
    window = convolution_window(layer, len(bottom) - 2)
    out = fitting(layer, window.slide(bottom[2:]), bottom[2:])
    weight = (channels, 1, *window.kernel)
    return Found(
        [(bottom[0], channels, *out)],
        with_bias(weight, (channels,), bool(param.get("bias_term"))),
        macs=math.prod(weight) * math.prod(out) * bottom[0],
    )


def _im2col(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    axis = axis_of(Options.of(layer.message, "convolution_param").get("axis"), len(bottoms[0]), layer)
    sizes = bottoms[0][axis + 1 :]
    window = convolution_window(layer, len(sizes))
    columns = bottoms[0][axis] * math.prod(window.kernel)
    return Found([(*bottoms[0][:axis], columns, *fitting(layer, window.slide(sizes), sizes))])


def fitting(layer: Layer, out: Shape, sizes: Shape) -> Shape:
    """`out`, the sizes of a top over a bottom of `sizes`. Raises `CaffeSplitError` where the kernel is too large."""
    if min(out) < 1:
        raise CaffeSplitError(f"{layer.where}: its kernel does not fit into its bottom of {size(sizes)}.")
    return out


def _words(layer: Layer) -> list[str]:
    """`conv 3x3 to 32` and, in a second line, what is not as usual: `stride 2, pad 1`."""
    word = _WORDS.get(layer.type, "depthwise conv")
    count = Options.of(layer.message, "convolution_param").get("num_output")
    if not layer.message.has("convolution_param"):
        return [f"{word} to ?"]
    try:
        geometry = convolution_geometry(layer)
    except CaffeSplitError:
        return [f"{word} to {count}"]
    unusual = [
        f"{name} {side(sides)}"
        for name, sides, usual in (
            ("stride", geometry.stride, (1, 1)),
            ("pad", geometry.pad, (0, 0)),
            ("dilation", geometry.dilation, (1, 1)),
        )
        if sides != usual
    ]
    if geometry.group != 1:
        unusual.append(f"group {geometry.group}")
    first = f"{word} {size(geometry.kernel)} to {count}"
    return [first, ", ".join(unusual)] if unusual else [first]


_WORDS = {
    **dict.fromkeys(("Convolution", "ConvolutionRistretto"), "conv"),
    **dict.fromkeys(("Deconvolution", "DeconvolutionRistretto"), "deconv"),
}
_GEOMETRY = "pad kernel_size stride dilation pad_h pad_w kernel_h kernel_w stride_h stride_w axis"
_OPTIONS = {"convolution_param": f"num_output bias_term weight_filler bias_filler group {_GEOMETRY} hole hole_h hole_w"}
# Padding that differs from side to side, in nets that were converted from TensorFlow.
_PADDED = {"convolution_param": _OPTIONS["convolution_param"] + " pad_l pad_r pad_t pad_b"}
_IGNORED = {**ENGINE, "force_nd_im2col": "it chooses among Caffe's own implementations"}

_NOT_IN_COLUMNS = {
    **_IGNORED,
    **dict.fromkeys(
        ("num_output", "bias_term", "weight_filler", "bias_filler", "group"), "an Im2col layer has no kernels"
    ),
}

RECORDS = (
    LayerType(
        "Convolution",
        shapes=_convolution,
        options=_PADDED,
        batch=along("convolution_param", "axis"),
        words=_words,
        has_kernels=True,
        engine=Engine("dense", (1, ANY), (1, ANY), _IGNORED, takes_bf16=True, lets_overwrite=always),
    ),
    LayerType(
        "Deconvolution",
        shapes=_convolution,
        options=_OPTIONS,
        batch=along("convolution_param", "axis"),
        words=_words,
        has_kernels=True,
        engine=Engine("dense", (1, ANY), (1, ANY), _IGNORED, takes_bf16=True),
    ),
    *(
        LayerType(
            name,
            shapes=_depthwise,
            options=_PADDED,
            batch=by_record,
            words=_words,
            has_kernels=True,
            keeps_channels=True,
            engine=Engine("depthwise", ignored=_IGNORED, takes_bf16=True, lets_overwrite=always),
        )
        for name in ("DepthwiseConvolution", "ConvolutionDepthwise")
    ),
    LayerType(
        "Im2col",
        shapes=_im2col,
        options={"convolution_param": _GEOMETRY},
        batch=along("convolution_param", "axis"),
        engine=Engine("rows", ignored=_NOT_IN_COLUMNS, takes_bf16=True, rule_refuses=True),
    ),
)
