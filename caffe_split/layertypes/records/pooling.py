"""Pooling, SPP: one value for each window of an image."""

from __future__ import annotations

import math
from collections.abc import Iterator

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import by_record
from caffe_split.layertypes.checks import ENGINE, one_of
from caffe_split.layertypes.record import Engine, LayerType
from caffe_split.layertypes.records.convolution import fitting
from caffe_split.layertypes.shape_rules import Found, Shape, UnknownShapeError, need_bottoms, need_options
from caffe_split.layertypes.words import side, size
from caffe_split.net.geometry import pooled_sizes, pooling_window, pyramid_windows
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
    need_bottoms(layer, bottoms, 1)
    if len(bottoms[0]) != 4:
        raise CaffeSplitError(f"{layer.where}: a bottom of shape {bottoms[0]}; expected (N, C, height, width).")
    batch, channels, height, width = bottoms[0]
    windows = pyramid_windows(layer, (height, width))
    if not windows:
        raise CaffeSplitError(f"{layer.where}: pyramid_height is missing or 0.")
    for level, window in enumerate(windows):
        if any(pad >= kernel for pad, kernel in zip(window.pad, window.kernel)):
            raise CaffeSplitError(
                f"{layer.where}: level {level} of its pyramid asks for {2**level} windows per side, with a padding of "
                f"{size(window.pad)} around a kernel of {size(window.kernel)}; its bottom of {height}x{width} is too "
                "small."
            )
    sizes = [window.pool((height, width)) for window in windows]
    if len(windows) == 1:
        return Found([(batch, channels, *sizes[0])])
    return Found([(batch, channels * sum(math.prod(each) for each in sizes))])


def _check_pooling(layer: Layer) -> Iterator[str]:
    options = Options.of(layer.message, "pooling_param")
    if options.get("pool") == "STOCHASTIC" and any(options.get(name) for name in ("pad", "pad_h", "pad_w")):
        yield "pool: STOCHASTIC with padding; Caffe pads for MAX and AVE only"
    if len(layer.tops) > 1 and options.get("pool") != "MAX":
        yield f"a second top, the places of the maxima, with pool: {options.get('pool')}; it goes with MAX"
    if options.has("ceil_mode") and options.has("round_mode"):
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
            check=_check_pooling,
            takes_bf16=True,
            rule_refuses=True,
        ),
    ),
    LayerType(
        "SPP",
        shapes=_spatial_pyramid,
        options={"spp_param": "pyramid_height pool"},
        batch=by_record,
        engine=Engine(
            "pyramid",
            ignored=ENGINE,
            check=one_of("spp_param", "pool", "MAX", "AVE"),
            takes_bf16=True,
            rule_refuses=True,
        ),
    ),
)
