"""The second pass over a .proto file: fields that `proto2.py` has read get their types and defaults."""

from __future__ import annotations

from typing import NamedTuple

from caffe_split.formats.prototxt import scalars
from caffe_split.formats.prototxt.schema import INT_RANGES, SCALAR_KINDS, Default, FieldType, Schema, implicit_default
from caffe_split.formats.prototxt.source import Source


class RawField(NamedTuple):
    """A field as read, its type not yet looked up."""

    owner: str
    name: str
    number: int
    type: str
    label: str
    packed: bool
    default: str | None
    offset: int


def link(raw: RawField, schema: Schema, source: Source) -> None:
    """Put a field into its message in `schema`, with its type and default; `source` is the file, for errors."""
    owner = schema.messages.get(raw.owner)
    if owner is None:
        raise source.error(raw.offset, f"extends {raw.owner!r}, which is not in the file")
    kind, enum, message = raw.type, None, None
    if kind not in SCALAR_KINDS:
        name = _find(schema, raw.owner, kind)
        enum, message = schema.enums.get(name), schema.messages.get(name)
        if enum is None and message is None:
            raise source.error(raw.offset, f"no message or enum {kind!r} in the file")
        kind = "enum" if enum is not None else "message"
    repeated = raw.label == "repeated"
    default: Default = None if repeated else implicit_default(kind, enum)
    if raw.default is not None:
        default = _default(raw, kind, source)
    owner.fields[raw.name] = FieldType(
        raw.name,
        raw.number,
        kind,
        repeated,
        raw.label == "required",
        raw.packed,
        default,
        raw.default is not None,
        enum,
        message,
    )


def _find(schema: Schema, scope: str, name: str) -> str:
    """The full name of the type that `name` means within `scope`: searched from the inside out, as proto2 does."""
    known = schema.messages.keys() | schema.enums.keys()
    if name.startswith("."):
        name = name[1:]
        scope = ""
    while True:
        candidate = f"{scope}.{name}" if scope else name
        if candidate in known:
            return candidate
        if not scope:
            # `caffe.BlobProto`: with the file's own package before it.
            tail = name.partition(".")[2]
            return _find(schema, "", tail) if tail else name
        scope = scope.rpartition(".")[0]


def _default(raw: RawField, kind: str, source: Source) -> Default:
    text = raw.default or ""
    try:
        if kind in ("string", "bytes"):
            data = scalars.decode_string(text)
            return data.decode("utf-8", "surrogateescape") if kind == "string" else data
        if kind in INT_RANGES:
            return int(text, 0)
        if kind in ("float", "double"):
            return float(text.rstrip("fF")) if "inf" not in text else float(text)
    except (ValueError, scalars.BadValueError):
        raise source.error(raw.offset, f"{text} is no default for a field of type {kind}") from None
    return text == "true" if kind == "bool" else text
