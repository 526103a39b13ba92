"""Protobuf's wire format over a buffer: tags, varints, lengths; every length is checked before it is used.

A reader of our own: protobuf would copy all weights of a model several times (docs/formats.md has the measurements).
It knows no messages; callers pick field numbers.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Union

Buffer = Union[bytes, memoryview]

VARINT, FIXED64, BYTES, GROUP, END_GROUP, FIXED32 = range(6)
MAX_GROUP_DEPTH = 100


class WireError(ValueError):
    """The bytes are not protobuf's wire format; `offset` is where that shows."""

    def __init__(self, offset: int, message: str) -> None:
        super().__init__(message)
        self.offset = offset


class Entry(NamedTuple):
    """One field on the wire.

    `start` and `end` bound its payload (for BYTES without the length, for GROUP with the end tag); `tag` is
    where its tag begins; `value` is the number of a VARINT, else 0.
    """

    number: int
    kind: int
    tag: int
    start: int
    end: int
    value: int


def varint(buffer: Buffer, position: int, limit: int) -> tuple[int, int]:
    """The varint at `position`, and the place after it."""
    start = position
    value = shift = 0
    while True:
        if position >= limit:
            raise WireError(start, "the data ends inside a number")
        byte = buffer[position]
        position += 1
        value |= (byte & 0x7F) << shift
        if byte < 0x80:
            return value & 0xFFFFFFFFFFFFFFFF, position
        shift += 7
        if shift >= 70:
            raise WireError(start, "a number of more than ten bytes")


def entries(buffer: Buffer, start: int, end: int) -> Iterator[Entry]:
    """The fields of the message in buffer[start:end], in order; groups come as one entry."""
    position = start
    while position < end:
        tag_at = position
        tag, position = varint(buffer, position, end)
        number, kind = tag >> 3, tag & 7
        if not 0 < number < 1 << 29:
            raise WireError(tag_at, f"{number} is no field number")
        value = 0
        payload = position
        if kind == BYTES:
            length, payload = varint(buffer, position, end)
            if length > end - payload:
                raise WireError(tag_at, f"field {number} says it has {length} bytes, but {end - payload} are left")
            position = payload + length
        elif kind == VARINT:
            value, position = varint(buffer, position, end)
        elif kind == FIXED32:
            position += 4
        elif kind == FIXED64:
            position += 8
        elif kind == GROUP:
            position = _skip_group(buffer, position, end, number, tag_at)
        else:
            what = "ends a group that did not begin" if kind == END_GROUP else f"has the wire type {kind}"
            raise WireError(tag_at, f"field {number} {what}")
        if position > end:
            raise WireError(tag_at, f"the data ends inside field {number}")
        yield Entry(number, kind, tag_at, payload, position, value)


def _skip_group(buffer: Buffer, position: int, end: int, number: int, opened: int) -> int:
    """The place after the end tag of a group. By a list, not by recursion, so that depth costs no stack."""
    open_groups = [number]
    while open_groups:
        if len(open_groups) > MAX_GROUP_DEPTH:
            raise WireError(opened, f"groups nested more than {MAX_GROUP_DEPTH} deep")
        tag_at = position
        tag, position = varint(buffer, position, end)
        inner, kind = tag >> 3, tag & 7
        if kind == BYTES:
            length, position = varint(buffer, position, end)
            position += length
        elif kind == VARINT:
            _, position = varint(buffer, position, end)
        elif kind == FIXED32:
            position += 4
        elif kind == FIXED64:
            position += 8
        elif kind == GROUP:
            open_groups.append(inner)
        elif kind == END_GROUP:
            if open_groups.pop() != inner:
                raise WireError(tag_at, f"group {inner} ends, but another was open")
        else:
            raise WireError(tag_at, f"field {inner} has the wire type {kind}")
        if position > end:
            raise WireError(tag_at, f"the data ends inside field {inner}")
    return position


def signed(value: int, bits: int = 64) -> int:
    """A varint as the two's complement number that int32 and int64 fields carry."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def encode_varint(value: int) -> bytes:
    """The varint of a number; negative ones as 64-bit two's complement."""
    value &= 0xFFFFFFFFFFFFFFFF
    out = bytearray()
    while value >= 0x80:
        out.append(value & 0x7F | 0x80)
        value >>= 7
    out.append(value)
    return bytes(out)


def encode_tag(number: int, kind: int) -> bytes:
    """The tag of a field."""
    return encode_varint(number << 3 | kind)


def encode_bytes(number: int, payload: bytes) -> bytes:
    """A whole length-delimited field: string, bytes, message or packed list."""
    return encode_tag(number, BYTES) + encode_varint(len(payload)) + payload
