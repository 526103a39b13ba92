"""Convolution and pooling of videos (N, C, time, height, width), of C3D."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import replace

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import by_record
from caffe_split.layertypes.checks import ENGINE, one_of
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, need_bottoms, need_options, with_bias
from caffe_split.layertypes.words import size
from caffe_split.net.geometry import HEIGHT_AND_WIDTH, Window
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options, shape_of


def volume_window(layer: Layer) -> Window:
    """The window over time, height and width of a Convolution3D or Pooling3D. Raises `CaffeSplitError`."""
    param = Options.of(layer.message, "pooling_param" if layer.type == "Pooling3D" else "convolution_param")
    sides = []
    for both, two in HEIGHT_AND_WIDTH.items():
        values = param.all(both) if layer.type == "Convolution3D" else [param.get(both)]
        usual = int(values[0]) if values else int(both == "stride")
        sides.append([int(param.get(key)) if param.has(key) else usual for key in two])
    times = [int(param.get(name)) for name in ("kernel_depth", "temporal_stride", "temporal_pad")]
    kernel, stride, pad = ((time, *pair) for time, pair in zip(times, sides))
    if min(kernel) < 1 or min(stride) < 1:
        raise CaffeSplitError(f"{layer.where} gives no kernel_size or kernel_depth, or a stride of 0.")
    return Window(kernel, stride, pad, (1, 1, 1))


def _need_volume(layer: Layer, bottoms: list[Shape]) -> Shape:
    need_bottoms(layer, bottoms, 1)
    if len(bottoms[0]) != 5:
        raise CaffeSplitError(
            f"{layer.where}: a bottom of {bottoms[0]}; a {layer.type} takes (N, C, time, height, width)."
        )
    return bottoms[0]


def _convolution(layer: Layer, bottoms: list[Shape]) -> Found:
    """Weight (kernels, channels / group, time, height, width)."""
    need_options(layer, "convolution_param")
    bottom = _need_volume(layer, bottoms)
    return _found_convolution(layer, bottom, volume_window(layer))


def _found_convolution(layer: Layer, bottom: Shape, window: Window) -> Found:
    param = Options.of(layer.message, "convolution_param")
    count, group = int(param.get("num_output")), int(param.get("group"))
    if count < 1 or group < 1 or bottom[1] % group or count % group:
        raise CaffeSplitError(
            f"{layer.where}: {bottom[1]} input channels and {count} kernels do not divide into {group} groups."
        )
    out = _fitting(layer, window.slide(bottom[2:]), bottom)
    weight = (count, bottom[1] // group, *window.kernel)
    params = with_bias(weight, (count,), bool(param.get("bias_term")))
    return Found([(bottom[0], count, *out)], params, macs=math.prod(weight) * math.prod(out) * bottom[0])


def _pooling(layer: Layer, bottoms: list[Shape]) -> Found:
    need_options(layer, "pooling_param")
    bottom, window = _need_volume(layer, bottoms), volume_window(layer)
    return Found([(*bottom[:2], *_fitting(layer, window.pool(bottom[2:]), bottom))])


def _fitting(layer: Layer, out: Shape, bottom: Shape) -> Shape:
    if min(out) < 1:
        raise CaffeSplitError(f"{layer.where}: its kernel does not fit into its bottom of {size(bottom[2:])}.")
    return out


def _check_kernel(layer: Layer) -> Iterator[str]:
    message = "pooling_param" if layer.type == "Pooling3D" else "convolution_param"
    if not Options.of(layer.message, message).get("kernel_depth"):
        yield f"{message}: kernel_depth is missing or 0"
    if layer.type == "Pooling3D":
        yield from one_of("pooling_param", "pool", "MAX")(layer)


def nd_window(layer: Layer, sides: Shape) -> Window:
    """The window of an NdConvolution or NdPooling over axes of these lengths: a number per axis.

    Raises `CaffeSplitError`.
    """
    param = Options.of(layer.message, "pooling_param" if layer.type == "NdPooling" else "convolution_param")
    rank = len(sides)
    sizes = []
    for name, usual in (("kernel_shape", 0), ("stride_shape", 1), ("pad_shape", 0)):
        given = shape_of(param.sub(name)) or (usual,) * rank
        if len(given) != rank:
            raise CaffeSplitError(f"{layer.where}: {name} has {len(given)} numbers for {rank} axes after the channels.")
        sizes.append(given)
    if min(sizes[0]) < 1 or min(sizes[1]) < 1:
        raise CaffeSplitError(f"{layer.where} gives no kernel_shape, or a stride of 0.")
    kernel = sides if layer.type == "NdPooling" and param.get("global_pooling") else sizes[0]
    return Window(kernel, sizes[1], sizes[2], (1,) * rank)


def _nd_sides(layer: Layer, bottoms: list[Shape]) -> Shape:
    need_bottoms(layer, bottoms, 1, axes=3)
    sides = bottoms[0][2:]
    if len(sides) > 3:
        raise CaffeSplitError(f"{layer.where}: a bottom of {bottoms[0]}; 1 to 3 axes behind the channels are handled.")
    return sides


def _squeezed(found: Found) -> Found:
    """The top without the axes of one value behind the channels: these layers drop them."""
    (top,) = found.tops
    return replace(found, tops=[(*top[:2], *(side for side in top[2:] if side > 1))])


def _nd_convolution(layer: Layer, bottoms: list[Shape]) -> Found:
    need_options(layer, "convolution_param")
    window = nd_window(layer, _nd_sides(layer, bottoms))
    return _squeezed(_found_convolution(layer, bottoms[0], window))


def _nd_pooling(layer: Layer, bottoms: list[Shape]) -> Found:
    need_options(layer, "pooling_param")
    sides = _nd_sides(layer, bottoms)
    out = _fitting(layer, nd_window(layer, sides).pool(sides, ceil=False), bottoms[0])
    return _squeezed(Found([(*bottoms[0][:2], *out)]))


def _check_nd_pooling(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "pooling_param")
    yield from one_of("pooling_param", "pool", "MAX", "AVE")(layer)
    if param.get("pool") == "AVE" and any(shape_of(param.sub("pad_shape"))):
        yield "pool: AVE with pad_shape is not handled"


_SIDES = "kernel_size kernel_h kernel_w pad pad_h pad_w stride stride_h stride_w"
_SHAPES = "kernel_shape stride_shape pad_shape"
_TIMES = "kernel_depth temporal_pad temporal_stride"

RECORDS = (
    LayerType(
        "Convolution3D",
        shapes=_convolution,
        options={"convolution_param": f"num_output bias_term weight_filler bias_filler group {_SIDES} {_TIMES}"},
        batch=by_record,
        short="Conv3D",
        engine=Engine("volumes", ignored=ENGINE, check=_check_kernel, takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "Pooling3D",
        shapes=_pooling,
        options={"pooling_param": f"pool {_SIDES} {_TIMES}"},
        batch=by_record,
        keeps_channels=True,
        engine=Engine("volumes", ignored=ENGINE, check=_check_kernel, takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "NdConvolution",
        shapes=_nd_convolution,
        options={"convolution_param": f"num_output bias_term weight_filler bias_filler group {_SHAPES}"},
        batch=by_record,
        short="NdConv",
        engine=Engine("volumes", ignored=ENGINE, takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "NdPooling",
        shapes=_nd_pooling,
        options={"pooling_param": f"pool global_pooling {_SHAPES}"},
        batch=by_record,
        keeps_channels=True,
        engine=Engine("volumes", ignored=ENGINE, check=_check_nd_pooling, takes_bf16=True, rule_refuses=True),
    ),
)
