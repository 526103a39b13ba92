"""Layers of forks that move values to other places, cut or pad images, and Axpy."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.batch_rules import (
    EACH,
    BatchKind,
    MixedRecordsError,
    Shapes,
    along,
    by_record,
)
from caffe_split.layertypes.record import Engine, LayerType, always
from caffe_split.layertypes.shape_rules import Found, Shape, axis_of, need_bottoms, need_images
from caffe_split.layertypes.words import size
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


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


def _padding(layer: Layer, bottoms: list[Shape]) -> Found:
    """Wider and higher by pad_beg and pad_end; by numbers below 0, cut."""
    need_images(layer, bottoms, 1)
    param = Options.of(layer.message, "padding_param")
    more = int(param.get("pad_beg")) + int(param.get("pad_end"))
    sides = [side + more for side in bottoms[0][2:]]
    if min(sides) < 1:
        raise CaffeSplitError(f"{layer.where}: nothing of its bottom of {size(bottoms[0][2:])} is left.")
    return Found([(*bottoms[0][:2], *sides)])


def _check_padding(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "padding_param")
    if param.get("pad_beg") * param.get("pad_end") < 0:
        yield "pad_beg and pad_end: one pads and one cuts; expected two of one kind"


def _flip(layer: Layer, bottoms: list[Shape]) -> Found:
    need_images(layer, bottoms, 1)
    return Found([bottoms[0]])


def _check_flip(layer: Layer) -> Iterator[str]:
    param = Options.of(layer.message, "flip_param")
    lacking = [name for name in ("flip_width", "flip_height") if not param.has(name)]
    if lacking:
        yield f"{lacking[0]} is missing; write both, since the default is the fork's own"


RECORDS = (
    LayerType(
        "Padding",
        shapes=_padding,
        options={"padding_param": "pad_beg pad_end"},
        batch=by_record,
        keeps_channels=True,
        engine=Engine("move", check=_check_padding, takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Flip",
        shapes=_flip,
        options={"flip_param": "flip_width flip_height"},
        batch=by_record,
        keeps_shape=True,
        keeps_channels=True,
        engine=Engine("move", check=_check_flip, takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Permute",
        shapes=_permute,
        options={"permute_param": "order"},
        batch=_permute_batch,
        engine=Engine("move", takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "Transpose",
        shapes=_permute,
        options={"transpose_param": "dim"},
        batch=_permute_batch,
        engine=Engine("move", takes_bf16=True, rule_refuses=True, class_name="Permute"),
    ),
    LayerType(
        "ShuffleChannel",
        shapes=_shuffle,
        options={"shuffle_channel_param": "group"},
        batch=by_record,
        keeps_channels=True,
        engine=Engine("move", takes_bf16=True, rule_refuses=True),
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
        engine=Engine("move", takes_bf16=True, rule_refuses=True),
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
