"""Layers that join, cut, reshape, choose from and combine blobs."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

from caffe_split.errors import CaffeSplitError, counted
from caffe_split.layertypes.batch_rules import (
    EACH,
    MEAN,
    SUM,
    BatchKind,
    MixedRecordsError,
    Shapes,
    along,
    as_first,
    by_record,
    is_first,
    linear,
)
from caffe_split.layertypes.record import ANY, Engine, LayerType, always
from caffe_split.layertypes.shape_rules import Found, Shape, all_same, axis_of, need_bottoms, no_tops, same
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options, shape_of

# -- joining and cutting


def _concat(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    param = Options.of(layer.message, "concat_param")
    axis = axis_of(param.get("concat_dim" if param.has("concat_dim") else "axis"), len(bottoms[0]), layer)
    for bottom in bottoms[1:]:
        alike = bottom[:axis] + bottom[axis + 1 :] == bottoms[0][:axis] + bottoms[0][axis + 1 :]
        if len(bottom) != len(bottoms[0]) or not alike:
            raise CaffeSplitError(f"{layer.where}: bottoms of {bottoms[0]} and {bottom} do not join along axis {axis}.")
    joined = sum(bottom[axis] for bottom in bottoms)
    return Found([(*bottoms[0][:axis], joined, *bottoms[0][axis + 1 :])])


def _slice(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    param, bottom, tops = Options.of(layer.message, "slice_param"), bottoms[0], len(layer.tops)
    if not tops:
        raise CaffeSplitError(f"{layer.where}: it has no top; a Slice needs one or more.")
    axis = axis_of(param.get("slice_dim" if param.has("slice_dim") else "axis"), len(bottom), layer)
    points = [int(point) for point in param.all("slice_point")]
    if not points and bottom[axis] % tops:
        raise CaffeSplitError(f"{layer.where}: {bottom[axis]} along axis {axis} do not divide into {tops} tops.")
    if not points:
        points = [bottom[axis] // tops * cut for cut in range(1, tops)]
    sizes = [stop - start for start, stop in zip([0, *points], [*points, bottom[axis]])]
    if len(sizes) != tops or min(sizes) < 1:
        raise CaffeSplitError(f"{layer.where}: {bottom[axis]} along axis {axis} are not sliced into {tops} tops.")
    return Found([(*bottom[:axis], part, *bottom[axis + 1 :]) for part in sizes])


def _crop(layer: Layer, bottoms: list[Shape]) -> Found:
    """The first bottom, from `axis` on as large as the second."""
    need_bottoms(layer, bottoms, 2)
    shape, wanted = bottoms[:2]
    axis = axis_of(Options.of(layer.message, "crop_param").get("axis"), len(shape), layer)
    offsets = crop_offsets(layer, len(shape) - axis)
    if len(offsets) != len(shape) - axis or len(wanted) < len(shape):
        raise CaffeSplitError(
            f"{layer.where}: {counted(len(offsets), 'offset')} and bottoms of {shape} and {wanted} do not go together."
        )
    for offset, have, want in zip(offsets, shape[axis:], wanted[axis:]):
        if offset + want > have:
            raise CaffeSplitError(f"{layer.where}: {want} values from {offset} on do not lie in an axis of {have}.")
    return Found([(*shape[:axis], *wanted[axis : len(shape)])])


def crop_offsets(layer: Layer, axes: int) -> list[int]:
    """Where a Crop begins in each of the axes that it cuts; one offset is for all of them."""
    offsets = [int(offset) for offset in Options.of(layer.message, "crop_param").all("offset")] or [0]
    return offsets * axes if len(offsets) == 1 else offsets


def _batch_reindex(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 2, axes=1)
    if len(bottoms[1]) != 1:
        raise CaffeSplitError(f"{layer.where}: numbers of records of shape {bottoms[1]}; expected one axis.")
    return Found([(bottoms[1][0], *bottoms[0][1:])])


def _mixes_records(layer: Layer, given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    if EACH in given:
        raise MixedRecordsError("the records that it chooses are those of the whole batch")
    return given[0]


def _check_filter(layer: Layer) -> Iterator[str]:
    if len(layer.tops) != len(layer.bottoms) - 1:
        yield f"{len(layer.tops)} tops for {len(layer.bottoms)} bottoms, the selector included; expected one less"


def _tile(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    param, bottom = Options.of(layer.message, "tile_param"), bottoms[0]
    tiles = int(param.get("tiles")) if param.has("tiles") else 1
    axis = axis_of(param.get("axis"), len(bottom), layer)
    return Found([(*bottom[:axis], bottom[axis] * tiles, *bottom[axis + 1 :])])


# -- reshaping


def _flatten(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    param, bottom = Options.of(layer.message, "flatten_param"), bottoms[0]
    first = axis_of(param.get("axis"), len(bottom), layer)
    last = axis_of(param.get("end_axis"), len(bottom), layer)
    if last + 1 < first:  # Caffe takes the axis before the first as none, and puts an axis of 1 in
        raise CaffeSplitError(f"{layer.where}: end_axis {last} lies before axis {first}.")
    return Found([(*bottom[:first], math.prod(bottom[first : last + 1]), *bottom[last + 1 :])])


def _reshape(layer: Layer, bottoms: list[Shape]) -> Found:
    """`num_axes` axes from `axis` on become `shape`, in which 0 keeps the bottom's size and -1 is what is left."""
    need_bottoms(layer, bottoms, 1)
    param, bottom = Options.of(layer.message, "reshape_param"), bottoms[0]
    dims = list(shape_of(param.sub("shape")))
    start = axis_of(param.get("axis"), len(bottom), layer, past_end=True)
    count = int(param.get("num_axes"))
    stop = len(bottom) if count == -1 else start + count
    if not start <= stop <= len(bottom):
        raise CaffeSplitError(f"{layer.where}: {count} axes from {start} on do not lie in its bottom of {bottom}.")
    if any(dim == 0 and start + i >= len(bottom) for i, dim in enumerate(dims)):
        raise CaffeSplitError(f"{layer.where}: it keeps an axis that its bottom of {bottom} does not have.")
    dims = [bottom[start + i] if dim == 0 else dim for i, dim in enumerate(dims)]
    given = math.prod(dim for dim in dims if dim != -1) * math.prod(bottom[:start]) * math.prod(bottom[stop:])
    left = math.prod(bottom) // given if given else 0
    result = (*bottom[:start], *(left if dim == -1 else dim for dim in dims), *bottom[stop:])
    if math.prod(result) != math.prod(bottom):
        raise CaffeSplitError(f"{layer.where}: its bottom of {bottom} cannot be given the shape {result}.")
    return Found([result])


def _reshape_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
    options = Options.of(layer.message, "reshape_param")
    lengths = options.sub("shape").all("dim")
    first = is_first(options.get("axis"), len(shapes[layer.bottoms[0]]) + 1)
    if given[0] == EACH and first and lengths and lengths[0] > 0:
        raise MixedRecordsError(f"it fixes the length of the first axis to {lengths[0]}; write 0 or -1")
    return given[0]


# -- choosing and combining


def _reduction(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1)
    axis = axis_of(Options.of(layer.message, "reduction_param").get("axis"), len(bottoms[0]), layer)
    return Found([bottoms[0][:axis]])


def _reduction_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
    options = Options.of(layer.message, "reduction_param")
    if given[0] == EACH and is_first(options.get("axis"), len(shapes[layer.bottoms[0]])):
        return MEAN if options.get("operation") == "MEAN" else SUM
    return by_record(layer, given, shapes)


def _arg_max(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 1, axes=1)
    param, bottom = Options.of(layer.message, "argmax_param"), bottoms[0]
    top_k = int(param.get("top_k"))
    if param.has("axis"):
        axis = axis_of(param.get("axis"), len(bottom), layer)
        return Found([(*bottom[:axis], top_k, *bottom[axis + 1 :])])
    ones = [1] * (len(bottom) - 3)
    return Found([(bottom[0], 2 if param.get("out_max_val") else 1, top_k, *ones)])


def _arg_max_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
    has_axis = Options.of(layer.message, "argmax_param").has("axis")
    return (along("argmax_param", "axis") if has_axis else by_record)(layer, given, shapes)


def _adds(layer: Layer) -> bool:
    """Whether an Eltwise adds: it is linear, and its gradient needs no values."""
    return bool(Options.of(layer.message, "eltwise_param").get("operation") == "SUM")


def _eltwise_batch(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
    return (linear if _adds(layer) else by_record)(layer, given, shapes)


def _eltwise_words(layer: Layer) -> list[str]:
    operation = str(Options.of(layer.message, "eltwise_param").get("operation"))
    return [{"SUM": "sum", "PROD": "product", "MAX": "maximum"}.get(operation, operation)]


RECORDS = (
    LayerType(
        "Split",
        shapes=same,
        batch=as_first,
        keeps_channels=True,
        engine=Engine("shape", tops=(1, ANY), takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "Silence",
        shapes=no_tops,
        batch=as_first,
        engine=Engine("shape", (1, ANY), (0, 0), takes_bf16=True),
    ),
    LayerType(
        "Concat",
        shapes=_concat,
        options={"concat_param": "axis concat_dim"},
        batch=along("concat_param", "axis", "concat_dim"),
        words=lambda layer: ["concat"],
        engine=Engine("shape", (1, ANY), takes_bf16=True, rule_refuses=True, lets_overwrite=always),
    ),
    LayerType(
        "Slice",
        shapes=_slice,
        options={"slice_param": "axis slice_dim slice_point"},
        batch=along("slice_param", "axis", "slice_dim"),
        engine=Engine("shape", tops=(1, ANY), takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "Crop",
        shapes=_crop,
        options={"crop_param": "axis offset"},
        batch=along("crop_param", "axis"),
        engine=Engine("shape", (2, 2), takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "BatchReindex",
        shapes=_batch_reindex,
        batch=_mixes_records,
        engine=Engine("rows", (2, 2), takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "Filter",
        shapes="how much it lets through depends on the data",
        batch=_mixes_records,
        engine=Engine("rows", (2, ANY), (1, ANY), check=_check_filter, takes_bf16=True),
    ),
    LayerType(
        "Tile",
        shapes=_tile,
        options={"tile_param": "axis tiles"},
        batch=along("tile_param", "axis"),
        engine=Engine("shape", takes_bf16=True),
    ),
    LayerType(
        "Flatten",
        shapes=_flatten,
        options={"flatten_param": "axis end_axis"},
        batch=as_first,
        engine=Engine("shape", takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "Reshape",
        shapes=_reshape,
        options={"reshape_param": "shape axis num_axes"},
        batch=_reshape_batch,
        engine=Engine("shape", takes_bf16=True, rule_refuses=True),
    ),
    LayerType(
        "Reduction",
        shapes=_reduction,
        options={"reduction_param": "operation axis coeff"},
        batch=_reduction_batch,
        engine=Engine("shape", rule_refuses=True),
    ),
    LayerType(
        "ArgMax",
        shapes=_arg_max,
        options={"argmax_param": "out_max_val top_k axis"},
        batch=_arg_max_batch,
        engine=Engine("shape"),
    ),
    LayerType(
        "Eltwise",
        shapes=all_same,
        options={"eltwise_param": "operation coeff"},
        batch=_eltwise_batch,
        words=_eltwise_words,
        keeps_channels=True,
        engine=Engine(
            "shape",
            (1, ANY),
            ignored={"stable_prod_grad": "autograd's gradient of a product is the stable one"},
            takes_bf16=True,
            rule_refuses=True,
            lets_overwrite=_adds,
        ),
    ),
)
