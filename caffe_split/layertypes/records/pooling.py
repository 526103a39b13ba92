"""Pooling, SPP: one value for each window of an image."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import by_record
from caffe_split.layertypes.checks import ENGINE, one_of
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.records.convolution import fitting
from caffe_split.layertypes.shape_rules import Found, Shape, UnknownShapeError, need_bottoms, need_options
from caffe_split.layertypes.words import side, size
from caffe_split.net.geometry import pooled_sizes, pooling_window
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _pooling(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    need_options(layer, "pooling_param")
    if len(bottoms[0]) != 4:
        raise UnknownShapeError(f"its bottom has shape {bottoms[0]}; Caffe pools (N, C, H, W) only")
    batch, channels, height, width = bottoms[0]
    sizes = pooled_sizes(layer, (height, width))
    return Found([(batch, channels, *fitting(layer, sizes, (height, width)))] * len(layer.tops))


def _words(layer: Layer) -> list[str]:
    """`max pool 3x3, stride 2`, or `global average pool`."""
    if not layer.message.has("pooling_param"):
        return ["pool"]
    param = Options.of(layer.message, "pooling_param")
    word = {"MAX": "max", "AVE": "average", "STOCHASTIC": "stochastic"}.get(str(param.get("pool")), "")
    if param.get("global_pooling"):
        return [f"global {word} pool"]
    try:
        window = pooling_window(layer, (1, 1))
    except CaffeSplitError:
        return [f"{word} pool"]
    pad = f", pad {side(window.pad)}" if any(window.pad) else ""
    return [f"{word} pool {size(window.kernel)}, stride {side(window.stride)}{pad}"]


def _spatial_pyramid(layer: Layer, bottoms: list[Shape]) -> Found:
    """1 + 4 + 16 + ... values per channel, one term per level of the pyramid; one level alone stays an image."""
    need_bottoms(layer, bottoms, 1, axes=4)
    param = Options.of(layer.message, "spp_param")
    height = int(param.get("pyramid_height")) if param.has("pyramid_height") else 1
    values = bottoms[0][1] * sum(4**level for level in range(height))
    return Found([(bottoms[0][0], values, 1, 1) if height == 1 else (bottoms[0][0], values)])


def _check(layer: Layer) -> Iterator[str]:
    yield from one_of("pooling_param", "pool", "MAX", "AVE")(layer)
    param = Options.of(layer.message, "pooling_param")
    if len(layer.tops) > 1 and param.get("pool") != "MAX":
        yield f"a second top, the places of the maxima, with pool: {param.get('pool')}; it goes with MAX"
    if param.has("ceil_mode") and param.has("round_mode"):
        yield "ceil_mode and round_mode, which different forks have for one thing; write one of them"


RECORDS = (
    LayerType(
        "Pooling",
        shapes=_pooling,
        options={
            "pooling_param": "pool kernel_size stride pad kernel_h kernel_w stride_h stride_w pad_h pad_w "
            "global_pooling round_mode ceil_mode"
        },
        batch=by_record,
        words=_words,
        keeps_channels=True,
        engine=Engine(
            "pool",
            tops=(1, 2),
            ignored=ENGINE,
            check=_check,
            takes_bf16=True,
            rule_refuses=True,
        ),
    ),
    LayerType("SPP", shapes=_spatial_pyramid, options={"spp_param": ""}),
)
