"""Layers that normalise, and Scale and Bias, which commonly follow: over channels, or the neighbours of a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_split.layertypes.batch_rules import (
    EACH,
    SAME,
    BatchKind,
    BatchRule,
    MixedRecordsError,
    Shapes,
    by_record,
    is_first,
    named,
)
from caffe_split.layertypes.checks import ENGINE
from caffe_split.layertypes.record import Engine, LayerType, always
from caffe_split.layertypes.shape_rules import Found, Shape, axis_of, need_bottoms, same, with_bias
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _batch_norm(layer: Layer, bottoms: list[Shape]) -> Found:
    """Mean, variance and their scale factor are statistics, not parameters."""
    need_bottoms(layer, bottoms, 1)
    channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
    return Found([bottoms[0]], state=[(channels,), (channels,), (1,)])


def _mvn(layer: Layer, bottoms: list[Shape]) -> Found:
    """The bottom's values, always on four axes."""
    need_bottoms(layer, bottoms, 1)
    return Found([(*bottoms[0], *[1] * (4 - len(bottoms[0])))])


def _scale(layer: Layer, bottoms: list[Shape]) -> Found:
    """Scale and Bias: a parameter over `num_axes` axes of the bottom from `axis` on, or a second bottom for it."""
    need_bottoms(layer, bottoms, 1)
    param = Options.of(layer.message, "scale_param" if layer.type == "Scale" else "bias_param")
    has_bias = layer.type == "Scale" and bool(param.get("bias_term"))
    if len(bottoms) > 1:
        return Found([bottoms[0]], [bottoms[1]] if has_bias else [])
    axis, count = axis_of(param.get("axis"), len(bottoms[0]), layer), int(param.get("num_axes"))
    shape = bottoms[0][axis:] if count == -1 else bottoms[0][axis : axis + count]
    return Found([bottoms[0]], with_bias(shape, shape, has_bias))


def _scale_batch(message: str) -> BatchRule:
    """Scale and Bias: what is multiplied or added begins at an axis of the first bottom."""

    def rule(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
        options = Options.of(layer.message, message)
        first = is_first(options.get("axis"), len(shapes[layer.bottoms[0]]))
        learns = len(given) == 1 or (message == "scale_param" and options.get("bias_term"))
        if learns and first and given[0] == EACH:
            raise MixedRecordsError("it learns a value for each record of a batch")
        if len(given) == 1:
            return by_record(layer, given, shapes)
        is_scalar = not shapes[layer.bottoms[1]]
        if given[0] == EACH and given[1] == (EACH if first and not is_scalar else SAME):
            return EACH
        if set(given) == {SAME}:
            return SAME
        raise MixedRecordsError(f"its bottoms ({named(layer, given)}) do not go together record by record")

    return rule


def _check_scale(layer: Layer) -> Iterator[str]:
    if len(layer.bottoms) == 1 and layer.message.has("scale_param"):
        options = Options.of(layer.message, "scale_param")
        if options.get("num_axes") < -1:
            yield f"num_axes: {options.get('num_axes')}; expected -1 or more"


RECORDS = (
    LayerType(
        "BatchNorm",
        shapes=_batch_norm,
        options={"batch_norm_param": "use_global_stats moving_average_fraction eps"},
        batch=by_record,
        short="BN",
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("norm", takes_bf16=True, rule_refuses=True, lets_overwrite=always),
        blob_names=("mean", "variance", "factor"),
    ),
    LayerType(
        "Scale",
        shapes=_scale,
        options={"scale_param": "axis num_axes filler bias_term bias_filler"},
        batch=_scale_batch("scale_param"),
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("dense", (1, 2), check=_check_scale, takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Bias",
        shapes=_scale,
        options={"bias_param": "axis num_axes filler"},
        batch=_scale_batch("bias_param"),
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("dense", (1, 2), takes_bf16=True, rule_refuses=True, lets_overwrite=always),
        blob_names=("bias",),
    ),
    LayerType(
        "LRN",
        shapes=same,
        options={"lrn_param": "local_size alpha beta norm_region k"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("norm", ignored=ENGINE),
    ),
    LayerType(
        "MVN",
        shapes=_mvn,
        options={"mvn_param": "normalize_variance across_channels eps"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("norm"),
    ),
)
