"""Layers of forks that enlarge images or move their values: Upsample, Interp, Permute and their like."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import (
    EACH,
    BatchKind,
    MixedRecordsError,
    Shapes,
    along,
    as_first,
    by_record,
)
from caffe_split.layertypes.record import Engine, LayerType, always
from caffe_split.layertypes.shape_rules import Found, Shape, axis_of, need_bottoms, need_images
from caffe_split.layertypes.words import size
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# -- enlarging


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
        if not param.has("upsample_h") and len(layer.bottoms) > 1 and scale < 2:
            yield f"a scale of {scale}; expected 2 or more"


def _unpooling(layer: Layer, bottoms: list[Shape]) -> Found:
    need_images(layer, bottoms, 2)
    side = int(Options.of(layer.message, "unpooling_param").get("unpool_size"))
    return Found([(*bottoms[0][:2], side, side)])


def _check_unpooling(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "unpooling_param")
    if param.get("unpool") != "MAX":
        yield f"unpool: {param.get('unpool')} is not handled; MAX is"
    if not param.get("unpool_size"):
        yield "unpool_size is missing, without which the size of its top is not known"


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
            sides = [(n - 1) // int(param.get("shrink_factor")) + 1 for n in sides]
        if param.has("zoom_factor"):
            sides = [n + (n - 1) * (int(param.get("zoom_factor")) - 1) for n in sides]
    if min(sides) < 1:
        raise CaffeSplitError(f"{layer.where}: nothing of its bottom of {size(bottoms[0][2:])} is left.")
    return Found([(*bottoms[0][:2], *sides)])


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


# -- moving


def order_of(layer: Layer, rank: int) -> list[int]:
    """The axes of a Permute's bottom in the order of its top; those not written follow. Raises `CaffeSplitError`.

    A Transpose, CTPN's, has all of them.
    """
    message, name = ("transpose_param", "dim") if layer.type == "Transpose" else ("permute_param", "order")
    order = [int(axis) for axis in Options.of(layer.message, message).all(name)]
    if layer.type == "Transpose" and sorted(order) != list(range(rank)):
        raise CaffeSplitError(f"{layer.where}: dim {order} is not each of the {rank} axes of its bottom once.")
    if len(set(order)) != len(order) or any(axis >= rank for axis in order):
        raise CaffeSplitError(f"{layer.where}: order {order} is none of the {rank} axes of its bottom.")
    return order + [axis for axis in range(rank) if axis not in order]


def _permute(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    return Found([tuple(bottoms[0][axis] for axis in order_of(layer, len(bottoms[0])))])


def _permute_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
    if given[0] == EACH and order_of(layer, len(shapes[layer.bottoms[0]]))[0] != 0:
        raise MixedRecordsError("it moves the axis of the records")
    return given[0]


def _shuffle(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1, axes=2)
    group = int(Options.of(layer.message, "shuffle_channel_param").get("group"))
    if group < 1 or bottoms[0][1] % group:
        raise CaffeSplitError(f"{layer.where}: {bottoms[0][1]} channels do not divide into {group} groups.")
    return Found([bottoms[0]])


def _reverse(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    axis_of(Options.of(layer.message, "reverse_param").get("axis"), len(bottoms[0]), layer)
    return Found([bottoms[0]])


def _reorg(layer: Layer, bottoms: list[Shape]) -> Found:
    """Space to channels, by squares of `stride`; with `reverse` channels to space."""
    need_images(layer, bottoms, 1)
    param = Options.of(layer.message, "reorg_param")
    stride, (batch, channels, height, width) = int(param.get("stride")), bottoms[0]
    if stride < 1 or (channels % stride**2 if param.get("reverse") else height % stride or width % stride):
        raise CaffeSplitError(f"{layer.where}: stride {stride} does not divide its bottom of {bottoms[0]}.")
    if param.get("reverse"):
        return Found([(batch, channels // stride**2, height * stride, width * stride)])
    return Found([(batch, channels * stride**2, height // stride, width // stride)])


def _pixel_shuffle(layer: Layer, bottoms: list[Shape]) -> Found:
    """Channels become squares of `upscale_factor`."""
    need_images(layer, bottoms, 1)
    factor, (batch, channels, height, width) = upscale_factor(layer), bottoms[0]
    if factor < 1 or channels % factor**2:
        raise CaffeSplitError(
            f"{layer.where}: {channels} channels do not divide into squares of {factor} (upscale_factor)."
        )
    return Found([(batch, channels // factor**2, height * factor, width * factor)])


def upscale_factor(layer: Layer) -> int:
    """The side of the squares of a PixelShuffle; 0 where it is not written."""
    return int(Options.of(layer.message, "pixel_shuffle_param").get("upscale_factor"))


def _check_pixel_shuffle(layer: Layer) -> Iterator[str]:
    if not upscale_factor(layer):
        yield "pixel_shuffle_param: upscale_factor is missing or 0"


def _crelu(layer: Layer, bottoms: list[Shape]) -> Found:
    """Twice as long along concat_axis."""
    need_bottoms(layer, bottoms, 1)
    axis = axis_of(Options.of(layer.message, "crelu_param").get("concat_axis"), len(bottoms[0]), layer)
    return Found([(*bottoms[0][:axis], 2 * bottoms[0][axis], *bottoms[0][axis + 1 :])])


def _axpy(layer: Layer, bottoms: list[Shape]) -> Found:
    """The factor per channel of each record, what it multiplies, and what is added."""
    need_bottoms(layer, bottoms, 3)
    factor, image, added = bottoms[:3]
    if image != added or factor[:2] != image[:2] or any(n != 1 for n in factor[2:]) or len(image) < 2:
        raise CaffeSplitError(
            f"{layer.where}: bottoms of {factor}, {image} and {added}; expected (N, C), and two alike."
        )
    return Found([image])


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
    LayerType(
        "Unpooling",
        shapes=_unpooling,
        options={"unpooling_param": "unpool unpool_size kernel_size stride pad"},
        batch=by_record,
        keeps_channels=True,
        engine=Engine("upsample", (2, 2), check=_check_unpooling),
    ),
    LayerType(
        "Interp",
        shapes=_interp,
        options={"interp_param": "height width zoom_factor shrink_factor pad_beg pad_end"},
        batch=as_first,
        keeps_channels=True,
        engine=Engine("interp", (1, 2), check=_check_interp, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Permute",
        shapes=_permute,
        options={"permute_param": "order"},
        batch=_permute_batch,
        engine=Engine("move", takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Transpose",
        shapes=_permute,
        options={"transpose_param": "dim"},
        batch=_permute_batch,
        engine=Engine("move", takes_bf16=True, rule_refuses=True, lets_overwrite=always, class_name="Permute"),
    ),
    LayerType(
        "ShuffleChannel",
        shapes=_shuffle,
        options={"shuffle_channel_param": "group"},
        batch=by_record,
        keeps_channels=True,
        engine=Engine("move", takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Reverse",
        shapes=_reverse,
        options={"reverse_param": "axis"},
        batch=along("reverse_param", "axis"),
        keeps_channels=True,
        engine=Engine("move", takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Reorg",
        shapes=_reorg,
        options={"reorg_param": "stride reverse"},
        batch=by_record,
        engine=Engine("move", takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "PixelShuffle",
        shapes=_pixel_shuffle,
        options={"pixel_shuffle_param": "upscale_factor"},
        batch=by_record,
        engine=Engine("move", check=_check_pixel_shuffle, takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "CReLU",
        shapes=_crelu,
        options={"crelu_param": "negative_slope concat_axis"},
        batch=along("crelu_param", "concat_axis"),
        engine=Engine("move", takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "Axpy",
        shapes=_axpy,
        batch=by_record,
        engine=Engine("move", (3, 3), takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
)
