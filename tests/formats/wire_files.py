"""Small wire-format files made by hand, good and bad."""

from __future__ import annotations

from caffe_split.formats.weights import wire


def raw_field(number: int, payload: bytes) -> bytes:
    return wire.encode_bytes(number, payload)


def blob(values: bytes, *dims: int) -> bytes:
    return values + raw_field(7, raw_field(1, b"".join(map(wire.encode_varint, dims))))


def layer(name: str, *parts: bytes) -> bytes:
    """A V2 layer with one blob, if there is one, and further raw fields behind it."""
    out = raw_field(1, name.encode())
    if parts:
        out += raw_field(7, parts[0])
    return out + b"".join(parts[1:])


def net(*layers: bytes) -> bytes:
    return b"".join(raw_field(100, item) for item in layers)
