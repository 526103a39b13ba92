"""From the text of one scalar to its Python value, and back.

The text format's own rules (protobuf's C++ reader is the one Caffe uses): numbers may be decimal, octal
(`017`) or hexadecimal where integers stand, and have no digit before or after the point or end in `f` where
floats stand; strings may be cut in pieces.
"""

from __future__ import annotations

import math
import re
from typing import Union

from caffe_split.formats.prototxt.schema import INT_RANGES, FieldType

Value = Union[str, bytes, int, float, bool]


class Enum(str):
    """The name of an enum value, or any bare word of a field that the schema does not know.

    It is a str, and is written without quotes:

    >>> from caffe_split.formats import prototxt
    >>> str(prototxt.field("operation", prototxt.Enum("SUM")))
    'operation: SUM'
    """

    __slots__ = ()


class BadValueError(ValueError):
    """The text of a value does not fit its field. The message names no place; the caller adds it."""


_INT = re.compile(r"-?(?:0[xX][0-9a-fA-F]+|0[0-7]*|[1-9][0-9]*)\Z")
_FLOAT = re.compile(r"-?(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?\Z")
_ZERO_FIRST = re.compile(r"-?0[0-9]")
_SPECIAL = re.compile(r"-?(?:inf|infinity|nan)\Z", re.IGNORECASE)
_PIECE = re.compile(r"""\s*(?:\#[^\n]*\s*)*(?:"([^"\\]*(?:\\.[^"\\]*)*)"|'([^'\\]*(?:\\.[^'\\]*)*)')""")
_ESCAPE = re.compile(r"\\(?:([0-7]{1,3})|[xX]([0-9a-fA-F]{1,2})|u([0-9a-fA-F]{4})|U([0-9a-fA-F]{8})|(.))", re.DOTALL)
_REMARK = re.compile(r"#[^\n]*")
_SIMPLE = {"a": 7, "b": 8, "f": 12, "n": 10, "r": 13, "t": 9, "v": 11, "\\": 92, "'": 39, '"': 34, "?": 63}
_SIMPLE_BYTES = {letter: bytes([code]) for letter, code in _SIMPLE.items()}


def is_string(raw: str) -> bool:
    """Whether the text of a value is a string (one piece or several)."""
    return raw[:1] in ("'", '"')


def decode_string(raw: str) -> bytes:
    """The bytes that a string stands for: its pieces joined, its escapes resolved."""
    parts: list[bytes] = []
    position = 0
    while position < len(raw):
        piece = _PIECE.match(raw, position)
        if piece is None:
            raise BadValueError(f"{_short(raw)} is not a string")
        inner = piece.group(1) if piece.group(1) is not None else piece.group(2)
        if "\\" in inner:
            parts.append(_unescape(inner))
        else:
            parts.append(inner.encode("utf-8", "surrogateescape"))
        position = piece.end()
    return b"".join(parts)


def _unescape(inner: str) -> bytes:
    parts: list[bytes] = []
    position = 0
    for escape in _ESCAPE.finditer(inner):
        parts.append(inner[position : escape.start()].encode("utf-8", "surrogateescape"))
        position = escape.end()
        octal, hexadecimal, short, long, letter = escape.groups()
        if octal is not None:
            parts.append(bytes([int(octal, 8) & 0xFF]))
        elif hexadecimal is not None:
            parts.append(bytes([int(hexadecimal, 16)]))
        elif short is not None or long is not None:
            code = int(short or long, 16)
            if code > 0x10FFFF or 0xD800 <= code < 0xE000:
                raise BadValueError(f"{escape.group()} is no character of Unicode")
            parts.append(chr(code).encode("utf-8"))
        elif letter in _SIMPLE_BYTES:
            parts.append(_SIMPLE_BYTES[letter])
        else:
            raise BadValueError(f"{escape.group()!r} is no escape of the text format; write \\\\ for a backslash")
    parts.append(inner[position:].encode("utf-8", "surrogateescape"))
    return b"".join(parts)


def decode(raw: str, known: FieldType | None) -> Value:
    """The typed value of a scalar's text; `BadValueError` when it does not fit `known`.

    Without `known`: strings give str, numbers int or float, bare words `Enum`.
    """
    if raw[:1] == "-":
        raw = "-" + "".join(_REMARK.sub("", raw[1:]).split())  # gaps may stand after a minus
    if known is None:
        return _decode_untyped(raw)
    kind = known.kind
    if kind in INT_RANGES:
        return _decode_int(raw, kind)
    if kind in ("float", "double"):
        return _decode_float(raw)
    if kind == "string":
        if not is_string(raw):
            raise BadValueError(f"expected a quoted string, found {_short(raw)}")
        return decode_string(raw).decode("utf-8", "surrogateescape")
    if kind == "bytes":
        if not is_string(raw):
            raise BadValueError(f"expected a quoted string, found {_short(raw)}")
        return decode_string(raw)
    if kind == "bool":
        if raw in ("true", "t", "True"):
            return True
        if raw in ("false", "f", "False"):
            return False
        if _INT.match(raw) and _int(raw) in (0, 1) and raw[0] != "-":
            return bool(_int(raw))
        raise BadValueError(f"expected true or false, found {_short(raw)}")
    if kind == "enum":
        assert known.enum is not None
        if _INT.match(raw):
            name = known.enum.name_of(_int(raw))
            if name is not None:
                return Enum(name)
        elif raw in known.enum.values:
            return Enum(raw)
        names = ", ".join(known.enum.values) if len(known.enum.values) <= 12 else f"the {known.enum.name}s"
        raise BadValueError(f"expected one of {names}, found {_short(raw)}")
    raise BadValueError(f"expected a message {{ ... }}, found {_short(raw)}")


def _decode_untyped(raw: str) -> Value:
    if is_string(raw):
        return decode_string(raw).decode("utf-8", "surrogateescape")
    if _INT.match(raw):
        return _int(raw)
    if _FLOAT.match(raw) or _SPECIAL.match(raw):
        return _decode_float(raw)
    if raw[:1] == "-":
        return _decode_float(raw)
    return Enum(raw)


def _int(raw: str) -> int:
    digits = raw.replace("-", "").strip()
    if len(digits) > 40:  # far past 64 bits; Python's own refusal of endless digits would be a ValueError
        raise BadValueError(f"{_short(raw)} is too large")
    base = 16 if digits[:2] in ("0x", "0X") else 8 if digits[0] == "0" else 10
    return -int(digits, base) if raw[0] == "-" else int(digits, base)


def _decode_int(raw: str, kind: str) -> int:
    if not _INT.match(raw):
        raise BadValueError(f"expected an integer, found {_short(raw)}")
    value = _int(raw)
    low, high = INT_RANGES[kind]
    if not low <= value <= high:
        raise BadValueError(f"{_short(raw)} does not fit {kind} ({low} to {high})")
    return value


def _decode_float(raw: str) -> float:
    if _SPECIAL.match(raw):
        return float(raw)
    # Caffe's reader takes no hexadecimal or octal number where a float stands.
    if _FLOAT.match(raw) and not _ZERO_FIRST.match(raw):
        return float(raw.rstrip("fF"))
    raise BadValueError(f"expected a decimal number, found {_short(raw)}")


def encode(value: object, known: FieldType | None, quote: str = '"') -> str:
    """The text of a Python value for a field; `BadValueError` when it does not fit the field's type."""
    kind = known.kind if known is not None else None
    if isinstance(value, (str, bytes)) and kind != "enum" and not (kind is None and isinstance(value, Enum)):
        raw = quoted(value, quote)
    elif isinstance(value, str):
        raw = str(value)
    elif isinstance(value, bool) or type(value).__name__ in ("bool", "bool_"):
        raw = "true" if value else "false"
    elif hasattr(value, "__index__"):
        raw = str(int(value))
        if kind == "bool" and raw in ("0", "1"):
            raw = "true" if raw == "1" else "false"
    elif hasattr(value, "__float__"):
        raw = _encode_float(value)
    else:
        raise BadValueError(f"a {type(value).__name__} is no value of a prototxt field")
    if known is not None:
        decode(raw, known)
    return raw


def _encode_float(value: object) -> str:
    number = float(value)  # type: ignore[arg-type]
    if math.isnan(number):
        return "nan"
    if math.isinf(number):
        return "inf" if number > 0 else "-inf"
    # numpy's float32 prints its own shortest form, where float(value) would print digits that mean nothing.
    text = str(value) if type(value).__name__.startswith("float") else repr(number)
    return text[:-2] if text.endswith(".0") else text


def quoted(value: str | bytes, quote: str = '"') -> str:
    """A string literal for `value`; non-ASCII text stays readable, other bytes become octal escapes."""
    text = value if isinstance(value, str) else value.decode("utf-8", "surrogateescape")
    out = []
    for char in text:
        if char in (quote, "\\"):
            out.append("\\" + char)
        elif char == "\n":
            out.append("\\n")
        elif char == "\t":
            out.append("\\t")
        elif char == "\r":
            out.append("\\r")
        elif 0xDC80 <= ord(char) <= 0xDCFF:
            out.append(f"\\{ord(char) - 0xDC00:03o}")
        elif ord(char) < 32 or ord(char) == 127:
            out.append(f"\\{ord(char):03o}")
        else:
            out.append(char)
    return quote + "".join(out) + quote


def _short(raw: str) -> str:
    return raw if len(raw) <= 60 else raw[:57] + "..."
