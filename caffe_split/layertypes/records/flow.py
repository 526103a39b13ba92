"""Layers of FlowNet: what compares two images."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import by_record
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, need_images, need_options
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _correlation(layer: Layer, bottoms: list[Shape]) -> Found:
    """A channel per displacement."""
    need_images(layer, bottoms, 2)
    need_options(layer, "correlation_param")
    param = Options.of(layer.message, "correlation_param")
    pad, kernel, most, stride, step = (
        int(param.get(name)) for name in ("pad", "kernel_size", "max_displacement", "stride_1", "stride_2")
    )
    if bottoms[0] != bottoms[1]:
        raise CaffeSplitError(f"{layer.where}: bottoms of {bottoms[0]} and {bottoms[1]}; expected one shape.")
    if stride < 1 or step < 1:
        raise CaffeSplitError(f"{layer.where}: stride_1 {stride}, stride_2 {step}; expected 1 or more of both.")
    border = 2 * (most + (kernel - 1) // 2)
    sides = tuple(-(-(side + 2 * pad - border) // stride) for side in bottoms[0][2:])
    if min(sides) < 1:
        raise CaffeSplitError(
            f"{layer.where}: a bottom of {bottoms[0]} is too small for its max_displacement, kernel_size and pad."
        )
    return Found([(bottoms[0][0], (2 * (most // step) + 1) ** 2, *sides)])


def _check_correlation(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "correlation_param")
    for name in ("kernel_size", "max_displacement", "stride_1", "stride_2"):
        if not param.get(name):
            yield f"{name} is missing or 0"
    if param.get("kernel_size") and param.get("kernel_size") % 2 == 0:
        yield "kernel_size is even; expected an odd one"
    if param.get("single_direction"):
        yield "single_direction is not handled"
    if param.get("do_abs"):
        yield "do_abs is not handled"


RECORDS = (
    LayerType(
        "Correlation",
        shapes=_correlation,
        options={
            "correlation_param": "pad kernel_size max_displacement stride_1 stride_2 correlation_type single_direction "
            "do_abs"
        },
        batch=by_record,
        engine=Engine("flow", (2, 2), check=_check_correlation, rule_refuses=True),
    ),
)
