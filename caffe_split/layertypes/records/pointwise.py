"""Layers that change each value by itself: activations, functions, Dropout."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from caffe_split.layertypes.batch_rules import MEAN, BatchKind, Shapes, by_record
from caffe_split.layertypes.checks import ENGINE
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, need_bottoms, same
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _pointwise(name: str, options: dict[str, str] | None = None, engine: Engine | None = None) -> LayerType:
    """A type of which all is known from its being pointwise."""
    return LayerType(
        name,
        shapes=same,
        options=options or {},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=engine or Engine("pointwise"),
    )


def _power_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
    """A linear function of a mean is the mean of the function's values; of a sum only without a shift."""
    options = Options.of(layer.message, "power_param")
    if options.get("power") == 1 and (given[0] == MEAN or options.get("shift") == 0):
        return given[0]
    return by_record(layer, given, shapes)


def _prelu(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    shared = Options.of(layer.message, "prelu_param").get("channel_shared")
    return Found([bottoms[0]], [() if shared else bottoms[0][1:2]])


def _apl(layer: Layer, bottoms: list[Shape]) -> Found:
    """Slopes and offsets, `sums` of each for each value of a record."""
    need_bottoms(layer, bottoms, 1, axes=2)
    blob = (1, 1, int(Options.of(layer.message, "apl_param").get("sums")), math.prod(bottoms[0][1:]))
    return Found([bottoms[0]], [blob, blob])


def _check_brelu(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "brelu_param")
    lacking = [name for name in ("minval", "maxval") if not param.has(name)]
    if lacking:
        yield f"brelu_param: {lacking[0]} is missing"


def _check_apl(layer: Layer) -> Iterator[str]:
    if Options.of(layer.message, "apl_param").get("sums") < 1:
        yield "sums: 0; expected 1 or more"


_LOW = Engine("pointwise", takes_bf16=True)
_CHECKED_LOW = Engine("pointwise", ignored=ENGINE, takes_bf16=True, rule_refuses=True)

RECORDS = (
    _pointwise(
        "ReLU",
        {"relu_param": "negative_slope"},
        Engine("pointwise", ignored=ENGINE, takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "PReLU",
        shapes=_prelu,
        options={"prelu_param": "filler channel_shared"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("pointwise", takes_bf16=True, rule_refuses=True),
    ),
    _pointwise("ReLU6", {"relu6_param": ""}, Engine("activation", takes_bf16=True)),
    *(_pointwise(name, engine=Engine("activation", takes_bf16=True)) for name in ("Mish", "HSwish", "HSigmoid")),
    _pointwise("ELU", {"elu_param": "alpha"}, _LOW),
    _pointwise(
        "BReLU",
        {"brelu_param": "minval maxval"},
        Engine("activation", check=_check_brelu, takes_bf16=True),
    ),
    _pointwise("SeLu", {"selu_param": "lambda alpha"}, Engine("activation", takes_bf16=True)),
    LayerType(
        "APL",
        shapes=_apl,
        options={"apl_param": "sums slope_filler offset_filler"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine(
            "activation",
            ignored={"save_mem": "it chooses among the layer's own implementations"},
            check=_check_apl,
            rule_refuses=True,
        ),
        blob_names=("slope", "offset"),
    ),
    _pointwise("Sigmoid", {"sigmoid_param": ""}, _CHECKED_LOW),
    _pointwise("TanH", {"tanh_param": ""}, _CHECKED_LOW),
    _pointwise("Swish", {"swish_param": "beta"}, _LOW),
    _pointwise("Clip", {"clip_param": "min max"}, _LOW),
    _pointwise("Threshold", {"threshold_param": "threshold"}),
    _pointwise("AbsVal", engine=_LOW),
    _pointwise("BNLL"),
    _pointwise("Exp", {"exp_param": "base scale shift"}),
    _pointwise("Log", {"log_param": "base scale shift"}),
    LayerType(
        "Power",
        shapes=same,
        options={"power_param": "power scale shift"},
        batch=_power_batch,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=_LOW,
    ),
    _pointwise(
        "Dropout",
        {"dropout_param": "dropout_ratio scale_train sample_weights_test"},
        Engine("pointwise", takes_bf16=True, rule_refuses=True),
    ),
)
