"""Layers of forks that pass their bottoms on as they are: outside of training, or in the forward pass."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_split.layertypes.batch_rules import by_record
from caffe_split.layertypes.record import ANY, Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, need_bottoms, same
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _each(layer: Layer, bottoms: list[Shape]) -> Found:
    """A top like each bottom."""
    return Found(bottoms[: len(layer.tops)])


def _check_noise(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "noise_param")
    if param.has("gaussian_std") == param.has("uniform_range"):
        yield "expected one of gaussian_std and uniform_range"


def _check_scaler(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "gradient_scaler_param")
    if param.get("max_iter") < 1:
        yield f"max_iter: {param.get('max_iter'):g}; expected 1 or more"
    if len(layer.bottoms) != len(layer.tops):
        yield f"{len(layer.bottoms)} bottoms and {len(layer.tops)} tops; expected a top per bottom"


def _spatial_dropout(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1, axes=2)
    return Found([bottoms[0]])


def spatial_dropout_ratio(layer: Layer) -> float:
    """The share of channels that a SpatialDropout drops. Some forks have it in dropout_param, as Dropout."""
    own, shared = (Options.of(layer.message, name) for name in ("spatial_dropout_param", "dropout_param"))
    return float((shared if shared.has("dropout_ratio") else own).get("dropout_ratio"))


def _check_spatial_dropout(layer: Layer) -> Iterator[str]:
    ratio = spatial_dropout_ratio(layer)
    if not 0 <= ratio < 1:
        yield f"dropout_ratio: {ratio:g}; expected a number from 0 to below 1"
    if layer.message.has("spatial_dropout_param") and layer.message.has("dropout_param"):
        yield "spatial_dropout_param and dropout_param; forks read one of them, and which one is not known"


RECORDS = (
    LayerType(
        "Noise",
        shapes=same,
        options={"noise_param": "gaussian_std uniform_range bias"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("passing", check=_check_noise, takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "GradientScaler",
        shapes=_each,
        options={"gradient_scaler_param": "lower_bound upper_bound alpha max_iter"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        pairs_channels=True,
        engine=Engine("passing", (1, ANY), (1, ANY), check=_check_scaler, takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "SpatialDropout",
        shapes=_spatial_dropout,
        options={"spatial_dropout_param": "dropout_ratio", "dropout_param": "dropout_ratio"},
        batch=by_record,
        joins_box=True,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("passing", check=_check_spatial_dropout, takes_bf16=True, rule_refuses=True),
    ),
)
