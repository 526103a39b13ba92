"""Layers of nets for faces: products whose classes are kept apart by a margin, in training."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import SAME, BatchKind, Shapes, by_record
from caffe_split.layertypes.record import Check, Engine, LayerType, always
from caffe_split.layertypes.shape_rules import Found, Shape, ShapeRule, axis_of, need_bottoms
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _margin(message: str) -> ShapeRule:
    """Scores of classes, weights (num_output, inputs) without a bias, and as a second top the factor lambda."""

    def rule(layer: Layer, bottoms: list[Shape]) -> Found:
        need_bottoms(layer, bottoms, 2, axes=1)
        param, x = Options.of(layer.message, message), bottoms[0]
        axis, count = axis_of(param.get("axis"), len(x), layer), int(param.get("num_output") or 0)
        records = math.prod(x[:axis])
        if axis < 1 or math.prod(bottoms[1]) != records:
            raise CaffeSplitError(
                f"{layer.where}: features of {x} and labels of {bottoms[1]}; expected a label for each of {records}."
            )
        inputs = math.prod(x[axis:])
        tops: list[Shape] = [(*x[:axis], count), (1,)]
        return Found(tops[: len(layer.tops)], [(count, inputs)], macs=inputs * count * records)

    return rule


def _check_margin(message: str) -> Check:
    def check(layer: Layer) -> Iterator[str]:
        if not Options.of(layer.message, message).get("num_output"):
            yield f"{message}: num_output is missing or 0"

    return check


def _margin_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> list[BatchKind]:
    return [by_record(layer, given, shapes), SAME][: len(layer.tops)]


def _add(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 2, axes=1)
    if math.prod(bottoms[1]) != bottoms[0][0]:
        raise CaffeSplitError(
            f"{layer.where}: scores of {bottoms[0]} and labels of {bottoms[1]}; expected a label per record."
        )
    return Found([bottoms[0]])


_FIELDS = "num_output type weight_filler axis base gamma power iteration lambda_min"


def _record(name: str, message: str) -> LayerType:
    return LayerType(
        name,
        shapes=_margin(message),
        options={message: _FIELDS},
        batch=_margin_batch,
        short=name.replace("InnerProduct", " product"),
        has_kernels=True,
        remembers=always,
        engine=Engine("faces", (2, 2), (1, 2), check=_check_margin(message), rule_refuses=True),
    )


RECORDS = (
    _record("MarginInnerProduct", "margin_inner_product_param"),
    _record("LargeMarginInnerProduct", "largemargin_inner_product_param"),
    LayerType(
        "LabelSpecificAdd",
        shapes=_add,
        options={"label_specific_add_param": "bias"},
        batch=by_record,
        keeps_shape=True,
        engine=Engine(
            "faces",
            (2, 2),
            ignored={"transform_test": "the published code adds the bias in training alone, whatever this says"},
            rule_refuses=True,
        ),
    ),
)
