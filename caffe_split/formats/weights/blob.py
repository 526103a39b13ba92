"""BlobProto as bytes: its shape, where its values lie, and an array over them.

Field numbers: 1-4 num, channels, height, width (the shape of old files); 5 data, 6 diff, 7 shape, 8 and 9
the same in double. 10-13 are NVCaffe's raw data.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights import wire

DATA, SHAPE, DOUBLE_DATA = 5, 7, 8
KNOWN = frozenset(range(1, 10))
RAW_TYPE, RAW_DATA = 10, 12
_RAW_TYPES = {0: "double", 1: "float", 2: "half", 3: "int", 4: "unsigned"}

# Caffe's blobs have at most 32 axes and an int for the count of values.
MAX_AXES = 32
MAX_COUNT = 2**31 - 1


class BlobError(ValueError):
    """The blob is well-formed protobuf, but its content does not fit together."""


class Blob(NamedTuple):
    """Where one blob lies: body bounds, shape, and its values in `number` (DATA or DOUBLE_DATA).

    `packed_at` is the offset of the values when they lie in one packed piece (nearly always), else None.
    """

    start: int
    end: int
    shape: tuple[int, ...]
    number: int
    packed_at: int | None
    size: int


def locate(buffer: memoryview, start: int, end: int) -> Blob:
    """Read the head of the blob in buffer[start:end] and check its shape against the values present.

    Raises `BlobError` or `wire.WireError`; nothing of the size of the values is allocated.
    """
    legacy = [0, 0, 0, 0]
    has_legacy = False
    dims: list[int] = []
    counts = {DATA: 0, DOUBLE_DATA: 0}
    pieces = {DATA: 0, DOUBLE_DATA: 0}
    packed_at: dict[int, int | None] = {DATA: None, DOUBLE_DATA: None}
    raw_bytes, raw_type = 0, -1
    position = start
    while position < end:
        run = _run_of_singles(buffer, position, end)
        if run:
            counts[DATA] += run
            pieces[DATA] += 2  # never "one packed piece"
            position += 5 * run
            continue
        entry = next(wire.entries(buffer, position, end))
        position = entry.end
        number, kind = entry.number, entry.kind
        if number in counts and kind == wire.BYTES:
            width = 4 if number == DATA else 8
            if (entry.end - entry.start) % width:
                raise BlobError(f"its values take {entry.end - entry.start} bytes, no multiple of {width}")
            if entry.end > entry.start:
                counts[number] += (entry.end - entry.start) // width
                pieces[number] += 1
                packed_at[number] = entry.start
        elif number == DOUBLE_DATA and kind == wire.FIXED64:
            counts[number] += 1
            pieces[number] += 2
        elif number == SHAPE and kind == wire.BYTES:
            _read_dims(buffer, entry, dims)
        elif 1 <= number <= 4 and kind == wire.VARINT:
            has_legacy = True
            legacy[number - 1] = wire.signed(entry.value, 32)
        elif number == RAW_DATA and kind == wire.BYTES:
            raw_bytes += entry.end - entry.start
        elif number == RAW_TYPE and kind == wire.VARINT:
            raw_type = entry.value
    # Caffe takes the old fields when any is there, and the doubles when there are any.
    shape = tuple(legacy) if has_legacy else tuple(dims)
    number = DOUBLE_DATA if counts[DOUBLE_DATA] else DATA
    if raw_bytes and not counts[number]:
        raise BlobError(
            f"its values are NVCaffe's raw data ({_RAW_TYPES.get(raw_type, 'unknown')} type, {raw_bytes} "
            "bytes), which BVLC's Caffe does not read; save the model from NVCaffe with "
            "`store_blobs_in_old_format: true`"
        )
    _check_shape(shape, counts[number])
    return Blob(start, end, shape, number, packed_at[number] if pieces[number] == 1 else None, counts[number])


def _check_shape(shape: tuple[int, ...], count: int) -> None:
    if any(dim < 0 for dim in shape):
        raise BlobError(f"its shape {text_of(shape)} has a negative length")
    if len(shape) > MAX_AXES:
        raise BlobError(f"its shape has {len(shape)} axes; Caffe takes at most {MAX_AXES}")
    product = 1
    for dim in shape:
        product *= dim
    if product > MAX_COUNT:
        raise BlobError(f"its shape {text_of(shape)} has {product} values; Caffe takes at most {MAX_COUNT}")
    if product != count:
        raise BlobError(f"its shape {text_of(shape)} needs {product} values, but {count} are present")


def text_of(shape: Sequence[int]) -> str:
    """A shape as people write it: 64x3x7x7; a scalar's is ()."""
    return "x".join(map(str, shape)) if shape else "()"


def _run_of_singles(buffer: memoryview, position: int, end: int) -> int:
    """How many values of `data` begin here, each after a tag of its own (files of 2013-14)."""
    if buffer[position] != 0x2D or position + 5 > end:
        return 0
    run = 0
    step = 64
    while True:  # in growing pieces, so that neither short runs nor long ones waste time or memory
        some = min(step, (end - position) // 5)
        tags = np.frombuffer(buffer, np.uint8, some * 5, position)[::5]
        wrong = np.flatnonzero(tags != 0x2D)
        if wrong.size:
            return run + int(wrong[0])
        run += some
        position += some * 5
        if some == 0 or (end - position) < 5:
            return run
        step = min(step * 4, 1 << 20)


def _read_dims(buffer: memoryview, entry: wire.Entry, dims: list[int]) -> None:
    for inner in wire.entries(buffer, entry.start, entry.end):
        if inner.number == 1 and inner.kind == wire.VARINT:
            dims.append(wire.signed(inner.value))
        elif inner.number == 1 and inner.kind == wire.BYTES:
            position = inner.start
            while position < inner.end:
                value, position = wire.varint(buffer, position, inner.end)
                dims.append(wire.signed(value))
                if len(dims) > MAX_AXES:
                    raise BlobError(f"its shape has more than {MAX_AXES} axes")
        if len(dims) > MAX_AXES:
            raise BlobError(f"its shape has more than {MAX_AXES} axes")


def array(buffer: memoryview, blob: Blob) -> np.ndarray[Any, np.dtype[np.float32]]:
    """The blob's values as float32 in its shape: a read-only view where the file has them so, else a copy."""
    width = "<f4" if blob.number == DATA else "<f8"
    if blob.packed_at is not None:
        values = np.frombuffer(buffer, width, blob.size, blob.packed_at)
    else:
        values = np.empty(blob.size, width)
        filled = 0
        for piece in _pieces(buffer, blob):
            values[filled : filled + piece.size] = piece
            filled += piece.size
        values.flags.writeable = False
    if blob.number == DOUBLE_DATA:
        with np.errstate(over="ignore"):  # past float32 is infinite to Caffe, too
            values = values.astype(np.float32)
        values.flags.writeable = False
    return values.reshape(blob.shape)


def _pieces(buffer: memoryview, blob: Blob) -> Any:
    position = blob.start
    while position < blob.end:
        run = _run_of_singles(buffer, position, blob.end)
        if run:
            if blob.number == DATA:
                records = np.frombuffer(buffer, np.dtype([("tag", "u1"), ("value", "<f4")]), run, position)
                yield records["value"]
            position += 5 * run
            continue
        entry = next(wire.entries(buffer, position, blob.end))
        position = entry.end
        if entry.number == blob.number and entry.kind in (wire.BYTES, wire.FIXED64):
            width = "<f4" if blob.number == DATA else "<f8"
            size = int(width[2])
            if entry.kind == wire.BYTES or size == 8:
                yield np.frombuffer(buffer, width, (entry.end - entry.start) // size, entry.start)


def extra_fields(buffer: memoryview, blob: Blob) -> bytes:
    """The fields that no BlobProto of BVLC's has, as they stand."""
    if blob.packed_at is None:
        return b""
    return b"".join(
        bytes(buffer[entry.tag : entry.end])
        for entry in wire.entries(buffer, blob.start, blob.end)
        if entry.number not in KNOWN and entry.number not in range(RAW_TYPE, RAW_DATA + 2)
    )


def head(values: np.ndarray[Any, Any], extra: bytes = b"") -> tuple[bytes, bytes]:
    """The bytes before and after the values of a blob that is written: (before, after)."""
    before = b""
    if values.size:
        before = wire.encode_tag(DATA, wire.BYTES) + wire.encode_varint(values.size * 4)
    if values.ndim == 4 and values.shape[0] == 1:
        # This shape may come from an old file, so it is written in the old fields: only there does Caffe take 1x1xMxN
        # for a layer's MxN, and 1x1x1xN for its N; a `shape` must be the layer's own. Where the layer's weight has four
        # axes, both forms mean the same.
        old = b"".join(
            wire.encode_tag(number, wire.VARINT) + wire.encode_varint(dim) for number, dim in enumerate(values.shape, 1)
        )
        return before, old + extra
    dims = b"".join(wire.encode_varint(dim) for dim in values.shape)
    shape = wire.encode_bytes(1, dims) if dims else b""
    return before, wire.encode_bytes(SHAPE, shape) + extra


def as_array(value: Any, where: str) -> np.ndarray[Any, Any]:
    """`value` as an array, not yet converted to float32. Raises `CaffeSplitError` when it holds no real numbers."""
    array = np.asarray(value)
    if array.dtype.kind not in "fiub":
        raise CaffeSplitError(f"{where}: expected an array of real numbers, found {array.dtype}")
    return array


def little_endian(value: Any) -> Iterator[memoryview]:
    """The bytes of an array as packed floats; a float32 array in order is not copied."""
    array = np.asarray(value, "<f4", order="C")
    if array.size:
        yield array.reshape(-1).view(np.uint8).data
