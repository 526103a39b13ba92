"""Layers of forks that enlarge images: Upsample, Interp, PixelShuffle and their like."""

from __future__ import annotations

from collections.abc import Iterator

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import (
    as_first,
    by_record,
)
from caffe_split.layertypes.record import Engine, LayerType, always
from caffe_split.layertypes.shape_rules import Found, Shape, need_images
from caffe_split.layertypes.words import size
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _upsample(layer: Layer, bottoms: list[Shape]) -> Found:
    """SegNet's: upsample_h and upsample_w, or the bottom's sides times `scale`, less 1 with pad_out; YOLO's: times."""
    need_images(layer, bottoms, 1)
    param = Options.of(layer.message, "upsample_param")
    batch, channels, *sides = bottoms[0]
    if param.has("upsample_h") and param.has("upsample_w"):
        return Found([(batch, channels, int(param.get("upsample_h")), int(param.get("upsample_w")))])
    scales = [_scale(param, side) for side in "hw"]
    out = [n * scale - bool(param.get(f"pad_out_{side}")) for n, scale, side in zip(sides, scales, "hw")]
    return Found([(batch, channels, out[0], out[1])])


def _scale(param: Options, side: str) -> int:
    return int(param.get(f"scale_{side}" if param.has(f"scale_{side}") else "scale"))


def _check_upsample(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "upsample_param")
    sides = [f"{name}_{side}" for name in ("upsample", "scale", "pad_out") for side in "hw"]
    written = [name for name in sides if param.has(name)]
    if len(layer.bottoms) == 1 and (written or not param.has("scale")):
        yield (
            f"{', '.join(written) or 'no scale'} with one bottom; YOLO's Upsample has `scale` alone, SegNet's a second "
            "bottom with the places of the maxima"
        )
    for name in ("upsample", "scale"):
        if param.has(f"{name}_h") != param.has(f"{name}_w"):
            yield f"{name}_h and {name}_w go together; one of them is missing"
    if param.has("scale") and (param.has("scale_h") or param.has("scale_w")):
        yield "scale and scale_h or scale_w; one of the two forms is taken"
    for side in "hw":
        scale = _scale(param, side)
        if not param.has("upsample_h") and param.get(f"pad_out_{side}") and scale != 2:
            yield f"pad_out_{side} with a scale of {scale}; it goes with 2"
        least = min(2, len(layer.bottoms))
        if not param.has("upsample_h") and scale < least:
            yield f"a scale of {scale}; expected {least} or more"


def _unpooling(layer: Layer, bottoms: list[Shape]) -> Found:
    need_images(layer, bottoms, 2)
    param = Options.of(layer.message, "unpooling_param")
    names = ("unpool_size", "unpool_size") if param.has("unpool_size") else ("unpool_h", "unpool_w")
    return Found([(*bottoms[0][:2], *(int(param.get(name) or 0) for name in names))])


def _check_unpooling(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "unpooling_param")
    if param.get("unpool") != "MAX":
        yield f"unpool: {param.get('unpool')} is not handled; MAX is"
    sides = [name for name in ("unpool_h", "unpool_w") if param.get(name)]
    if not param.get("unpool_size") and len(sides) < 2:
        yield "unpool_size, or unpool_h and unpool_w, is missing, without which the size of its top is not known"
    elif param.get("unpool_size") and sides:
        yield f"unpool_size and {sides[0]}; one of the two forms is taken"


def _interp(layer: Layer, bottoms: list[Shape]) -> Found:
    """DeepLab's: from the cropped bottom's sides by factors, or height and width, or as a second bottom."""
    need_images(layer, bottoms, 1)
    param = Options.of(layer.message, "interp_param")
    cropped = int(param.get("pad_beg")) + int(param.get("pad_end"))
    sides = [n + cropped for n in bottoms[0][2:]]
    if len(bottoms) > 1:
        need_images(layer, bottoms, 2)
        sides = list(bottoms[1][2:4])
    elif param.has("height") and param.has("width"):
        sides = [int(param.get("height")), int(param.get("width"))]
    else:
        if param.has("shrink_factor"):
            factor = int(param.get("shrink_factor"))
            if factor < 1:
                raise CaffeSplitError(f"{layer.where}: shrink_factor: {factor}; expected 1 or more.")
            sides = [(n - 1) // factor + 1 for n in sides]
        if param.has("zoom_factor"):
            sides = [n + (n - 1) * (int(param.get("zoom_factor")) - 1) for n in sides]
    if min(sides) < 1:
        raise CaffeSplitError(f"{layer.where}: nothing of its bottom of {size(bottoms[0][2:])} is left.")
    return Found([(*bottoms[0][:2], *sides)])


def _as_second(layer: Layer, bottoms: list[Shape]) -> Found:
    need_images(layer, bottoms, 2)
    return Found([(*bottoms[0][:2], *bottoms[1][2:])])


def _check_interp(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "interp_param")
    factors = [name for name in ("shrink_factor", "zoom_factor") if param.has(name)]
    sides = [name for name in ("height", "width") if param.has(name)]
    for name in factors:
        if param.get(name) < 1:
            yield f"{name}: {param.get(name)}; expected 1 or more"
    for name in ("pad_beg", "pad_end"):
        if param.get(name) > 0:
            yield f"{name}: {param.get(name)}; DeepLab's Interp crops, by numbers below 0, and does not pad"
    ways = bool(factors) + bool(sides) + (len(layer.bottoms) - 1)
    if ways != 1 or len(sides) == 1:
        given = ", ".join([*factors, *sides, *(["a second bottom"] if len(layer.bottoms) > 1 else [])]) or "nothing"
        yield f"its size is given by {given}; expected height and width, or factors, or a second bottom"


def _pixel_shuffle(layer: Layer, bottoms: list[Shape]) -> Found:
    """Channels become squares of `upscale_factor`."""
    need_images(layer, bottoms, 1)
    factor, (batch, channels, height, width) = upscale_factor(layer), bottoms[0]
    if factor < 1 or channels % factor**2:
        raise CaffeSplitError(
            f"{layer.where}: {channels} channels do not divide into squares of {factor} ({_FACTOR[layer.type][1]})."
        )
    return Found([(batch, channels // factor**2, height * factor, width * factor)])


def upscale_factor(layer: Layer) -> int:
    """The side of the squares of a PixelShuffle or Tiling; 0 where it is not written."""
    message, name = _FACTOR[layer.type]
    return int(Options.of(layer.message, message).get(name) or 0)


_FACTOR = {"PixelShuffle": ("pixel_shuffle_param", "upscale_factor"), "Tiling": ("tiling_param", "tile_dim")}


def _check_pixel_shuffle(layer: Layer) -> Iterator[str]:
    if not upscale_factor(layer):
        yield "{}: {} is missing or 0".format(*_FACTOR[layer.type])


_MASKED = "scale scale_h scale_w pad_out_h pad_out_w upsample_h upsample_w"

RECORDS = (
    LayerType(
        "Upsample",
        shapes=_upsample,
        options={"upsample_param": _MASKED},
        batch=by_record,
        keeps_channels=True,
        engine=Engine("upsample", (1, 2), check=_check_upsample),
    ),
    *(
        LayerType(
            name,
            shapes=_unpooling,
            options={"unpooling_param": "unpool unpool_size unpool_h unpool_w kernel_size stride pad"},
            batch=by_record,
            keeps_channels=True,
            engine=Engine("upsample", (2, 2), check=_check_unpooling, class_name="Unpooling"),
        )
        for name in ("Unpooling", "UnPooling")
    ),
    LayerType(
        "Interp",
        shapes=_interp,
        options={"interp_param": "height width zoom_factor shrink_factor pad_beg pad_end"},
        batch=as_first,
        keeps_channels=True,
        pairs_channels=True,
        engine=Engine("interp", (1, 2), check=_check_interp, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "BilinearInterpolation",
        shapes=_as_second,
        batch=as_first,
        keeps_channels=True,
        pairs_channels=True,
        engine=Engine("interp", (2, 2), rule_refuses=True, lets_overwrite=always),
    ),
    *(
        LayerType(
            name,
            shapes=_pixel_shuffle,
            options={message: field},
            batch=by_record,
            engine=Engine(
                "move",
                check=_check_pixel_shuffle,
                takes_bf16=True,
                rule_refuses=True,
                class_name="PixelShuffle",
            ),
        )
        for name, (message, field) in _FACTOR.items()
    ),
)
