"""Convolutions of forks whose kernels or places differ from pixel to pixel."""

from __future__ import annotations

import math

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import by_record
from caffe_split.layertypes.checks import ENGINE
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.records.convolution import fitting
from caffe_split.layertypes.shape_rules import Found, Shape, need_images, need_options, with_bias
from caffe_split.net.geometry import convolution_window
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _local(layer: Layer, bottoms: list[Shape]) -> Found:
    """Weight (kernels, 1, channels * kernel, places) and bias (1, 1, kernels, places)."""
    need_images(layer, bottoms, 1)
    need_options(layer, "local_param")
    param, bottom = Options.of(layer.message, "local_param"), bottoms[0]
    window = convolution_window(layer, 2, "local_param")
    count = int(param.get("num_output") or 0)
    if count < 1 or window.dilation != (1, 1):
        raise CaffeSplitError(f"{layer.where}: num_output is missing or 0, or a dilation, which it does not have.")
    out = fitting(layer, window.slide(bottom[2:]), bottom[2:])
    weight = (count, 1, bottom[1] * math.prod(window.kernel), math.prod(out))
    bias = (1, 1, count, math.prod(out))
    return Found(
        [(bottom[0], count, *out)],
        with_bias(weight, bias, bool(param.get("bias_term"))),
        macs=math.prod(weight) * bottom[0],
    )


def _deformable(layer: Layer, bottoms: list[Shape]) -> Found:
    """The second bottom has, for each place of the kernel and of the top, how far down and to the right to look."""
    need_images(layer, bottoms, 2)
    need_options(layer, "deformable_convolution_param")
    param, (bottom, moves) = Options.of(layer.message, "deformable_convolution_param"), bottoms[:2]
    window = convolution_window(layer, 2, "deformable_convolution_param")
    count, group, parts = (int(param.get(name) or 0) for name in ("num_output", "group", "deformable_group"))
    if count < 1 or group < 1 or bottom[1] % group or count % group or parts < 1 or bottom[1] % parts:
        raise CaffeSplitError(
            f"{layer.where}: {bottom[1]} input channels and {count} kernels do not divide into {group} groups, or the "
            f"channels not into {parts} deformable groups."
        )
    out = fitting(layer, window.slide(bottom[2:]), bottom[2:])
    wanted = (bottom[0], 2 * parts * math.prod(window.kernel), *out)
    if moves != wanted:
        raise CaffeSplitError(f"{layer.where}: its second bottom has shape {moves}; expected {wanted}.")
    weight = (count, bottom[1] // group, *window.kernel)
    return Found(
        [(bottom[0], count, *out)],
        with_bias(weight, (count,), bool(param.get("bias_term"))),
        macs=math.prod(weight) * math.prod(out) * bottom[0],
    )


_SIDES = "pad kernel_size stride pad_h pad_w kernel_h kernel_w stride_h stride_w"
_WEIGHTS = "num_output bias_term weight_filler bias_filler"

RECORDS = (
    LayerType(
        "Local",
        shapes=_local,
        options={"local_param": f"{_WEIGHTS} {_SIDES}"},
        batch=by_record,
        engine=Engine("fork_convolution", ignored=ENGINE, rule_refuses=True),
    ),
    LayerType(
        "DeformableConvolution",
        shapes=_deformable,
        options={"deformable_convolution_param": f"{_WEIGHTS} {_SIDES} dilation group deformable_group"},
        batch=by_record,
        short="deformable",
        has_kernels=True,
        engine=Engine("fork_convolution", (2, 2), ignored=ENGINE, rule_refuses=True),
    ),
)
