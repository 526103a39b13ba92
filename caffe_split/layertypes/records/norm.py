"""Layers that normalise, and Scale and Bias, which commonly follow: over channels, or the neighbours of a value."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
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
from caffe_split.layertypes.shape_rules import Found, Shape, UnknownShapeError, axis_of, need_bottoms, same, with_bias
from caffe_split.net import norm_forks
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _need_values(layer: Layer, bottom: Shape) -> None:
    """Raises `CaffeSplitError` for a bottom without records or channels, where Caffe divides by 0."""
    if 0 in bottom[:2]:
        raise CaffeSplitError(f"{layer.where}: a bottom of {bottom}; a {layer.type} needs records and channels.")


def _batch_norm(layer: Layer, bottoms: list[Shape]) -> Found:
    """Mean, variance and their scale factor are statistics; a factor and a shift per channel, in forks, parameters."""
    need_bottoms(layer, bottoms, 1)
    _need_values(layer, bottoms[0])
    channels = bottoms[0][1] if len(bottoms[0]) > 1 else 1
    own: list[Shape] = [(channels,), (channels,)] if norm_forks.scale_inside(layer) else []
    return Found([bottoms[0]], own, [(channels,), (channels,), (1,)], state_first=True)


def _bn(layer: Layer, bottoms: list[Shape]) -> Found:
    """A factor and a shift per channel; the running mean and variance, where the fork keeps them, are statistics."""
    need_bottoms(layer, bottoms, 1, axes=2)
    _need_values(layer, bottoms[0])
    blob = (1, bottoms[0][1], 1, 1)
    kind = norm_forks.bn_kind(layer)
    if kind is None:
        raise UnknownShapeError(norm_forks.WHICH_BN)
    return Found([bottoms[0]], [blob, blob], [blob, blob] if kind == "running" else [])


def _check_bn(layer: Layer) -> Iterator[str]:
    if norm_forks.bn_kind(layer) is None:
        yield norm_forks.WHICH_BN


def _normalize(layer: Layer, bottoms: list[Shape]) -> Found:
    """A learnt factor, one for all or one per channel; none without norm_param, where forks agree on records alone."""
    need_bottoms(layer, bottoms, 1, axes=2)
    if not layer.message.has("norm_param"):
        if any(length != 1 for length in bottoms[0][2:]):
            raise CaffeSplitError(
                f"{layer.where}: a bottom of {bottoms[0]} without norm_param; SSD's Normalize divides an image by its "
                "length, that of nets for faces each place: write norm_param { } for the former."
            )
        return Found([bottoms[0]])
    shared = Options.of(layer.message, "norm_param").get("channel_shared")
    return Found([bottoms[0]], [() if shared else (bottoms[0][1],)])


def _check_normalize(layer: Layer) -> Iterator[str]:
    if layer.message.has("param") and not layer.message.has("norm_param"):
        yield (
            "param without norm_param: it may be SSD's Normalize, with a learnt factor, or that of nets for faces, "
            "without any; write norm_param { } for the former"
        )


def _normalization_l2(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1, axes=2)
    if any(length != 1 for length in bottoms[0][2:]):
        raise CaffeSplitError(
            f"{layer.where}: a bottom of {bottoms[0]}; whether images are divided by one length or by one per place is "
            "known for records (N, C) only."
        )
    return Found([bottoms[0]])


def _group_norm(layer: Layer, bottoms: list[Shape]) -> Found:
    """The factor and the shift per channel are a Scale's, behind it."""
    need_bottoms(layer, bottoms, 1, axes=2)
    groups = int(Options.of(layer.message, "group_norm_param").get("group_num"))
    if groups < 1 or bottoms[0][1] % groups:
        raise CaffeSplitError(f"{layer.where}: {bottoms[0][1]} channels do not divide into {groups} groups.")
    return Found([bottoms[0]])


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
        other = bottoms[1]
        axis = axis_of(param.get("axis"), len(bottoms[0]), layer) if other else 0
        if bottoms[0][axis : axis + len(other)] != other:
            raise CaffeSplitError(
                f"{layer.where}: an array of shape {other} does not fit a bottom of shape {bottoms[0]} at axis {axis}."
            )
        return Found([bottoms[0]], [other] if has_bias else [])
    axis, count = axis_of(param.get("axis"), len(bottoms[0]), layer), int(param.get("num_axes"))
    if count < -1 or axis + count > len(bottoms[0]):
        raise CaffeSplitError(
            f"{layer.where}: axis {axis} and num_axes {count} go past a bottom of shape {bottoms[0]}."
        )
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
        options={
            "batch_norm_param": "use_global_stats moving_average_fraction eps scale_bias scale_filler bias_filler "
            "use_weight_bias bias_term filler"
        },
        batch=by_record,
        short="BN",
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine(
            "norm", check=norm_forks.check_batch_norm, takes_bf16=True, rule_refuses=True, lets_overwrite=always
        ),
        blob_names=("mean", "variance", "factor", "weight", "bias"),
    ),
    LayerType(
        "BN",
        shapes=_bn,
        options={"bn_param": "scale_filler shift_filler bn_mode slope_filler bias_filler momentum eps frozen"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("bn", check=_check_bn, takes_bf16=True, rule_refuses=True, lets_overwrite=always),
        blob_names=("weight", "bias", "mean", "variance"),
        ignores_ones=True,
    ),
    LayerType(
        "Normalize",
        shapes=_normalize,
        options={"norm_param": "across_spatial scale_filler channel_shared eps"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("normalize", check=_check_normalize),
    ),
    LayerType(
        "NormalizationL2",
        shapes=_normalization_l2,
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("normalize", rule_refuses=True),
    ),
    LayerType(
        "GroupNorm",
        shapes=_group_norm,
        options={"group_norm_param": "eps group_num"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("normalize", rule_refuses=True),
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
