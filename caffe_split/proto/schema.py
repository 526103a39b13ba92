"""What is known of each message: fields, numbers, types, labels, defaults, enum names.

A `Schema` is plain Python objects. Ours is read once from the generated module; a fork's own comes from
its .proto file (`protofile.py`). Nothing of protobuf leaves this package.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Union

Default = Union[str, bytes, int, float, bool, None]

INT_RANGES = {
    "int32": (-(2**31), 2**31 - 1),
    "sint32": (-(2**31), 2**31 - 1),
    "sfixed32": (-(2**31), 2**31 - 1),
    "uint32": (0, 2**32 - 1),
    "fixed32": (0, 2**32 - 1),
    "int64": (-(2**63), 2**63 - 1),
    "sint64": (-(2**63), 2**63 - 1),
    "sfixed64": (-(2**63), 2**63 - 1),
    "uint64": (0, 2**64 - 1),
    "fixed64": (0, 2**64 - 1),
}
SCALAR_KINDS = frozenset(INT_RANGES) | {"float", "double", "bool", "string", "bytes"}


@dataclass(frozen=True)
class EnumType:
    """An enum: `values` maps each name to its number, in the order of the schema."""

    name: str
    values: Mapping[str, int]

    def name_of(self, number: int) -> str | None:
        """The first name with this number, or None."""
        return next((name for name, value in self.values.items() if value == number), None)


@dataclass(frozen=True)
class FieldType:
    """One field of a message. `kind` is a scalar kind of proto2, "enum" or "message".

    `default` is what Caffe sees when the field is absent: the schema's own default, or proto2's (zero, the
    empty string, the first name of an enum); None for messages and repeated fields.
    """

    name: str
    number: int
    kind: str
    repeated: bool = False
    required: bool = False
    packed: bool = False
    default: Default = None
    has_default: bool = False
    enum: EnumType | None = None
    message: MessageType | None = None


@dataclass(eq=False)
class MessageType:
    """A message: its full name without the package, and its fields by name."""

    name: str
    fields: dict[str, FieldType] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"MessageType({self.name})"


@dataclass(eq=False)
class Schema:
    """All messages and enums of one caffe.proto, by name without the package (nested: `Outer.Inner`)."""

    messages: dict[str, MessageType]
    enums: dict[str, EnumType]

    def facts(self) -> dict[str, dict[str, tuple[object, ...]]]:
        """Everything the schema says, as nested dicts that compare equal when two schemas agree."""
        return {
            message.name: {
                f.name: (
                    f.number, f.kind, f.repeated, f.required, f.packed, f.has_default, f.default,
                    f.enum and (f.enum.name, tuple(sorted(f.enum.values.items()))),
                    f.message and f.message.name,
                )
                for f in message.fields.values()
            }
            for message in self.messages.values()
        }  # fmt: skip


def implicit_default(kind: str, enum: EnumType | None) -> Default:
    """What proto2 gives for an absent singular field that declares no default."""
    if kind == "enum":
        assert enum is not None
        return next(iter(enum.values))
    if kind == "message":
        return None
    zeros: dict[str, Default] = {"string": "", "bytes": b"", "bool": False, "float": 0.0, "double": 0.0}
    return zeros.get(kind, 0)


@functools.lru_cache(maxsize=1)
def caffe() -> Schema:
    """Our own schema: BVLC's at 99bd997, with the TPM layer's options added."""
    from caffe_split.proto import caffe_pb2

    return from_descriptor(caffe_pb2.DESCRIPTOR)


_TYPE_NAMES = {
    1: "double", 2: "float", 3: "int64", 4: "uint64", 5: "int32", 6: "fixed64", 7: "fixed32", 8: "bool",
    9: "string", 11: "message", 12: "bytes", 13: "uint32", 14: "enum", 15: "sfixed32", 16: "sfixed64",
    17: "sint32", 18: "sint64",
}  # fmt: skip


def from_descriptor(file: Any) -> Schema:
    """Read a protobuf FileDescriptor into a Schema."""
    # Through the descriptor's own message form, which has looked the same in every protobuf release.
    from google.protobuf import descriptor_pb2

    proto = descriptor_pb2.FileDescriptorProto()
    file.CopyToProto(proto)
    prefix = f".{proto.package}." if proto.package else "."
    schema = Schema({}, {})
    pending = []

    def visit(message: Any, outer: str) -> None:
        name = outer + message.name
        schema.messages[name] = MessageType(name)
        pending.append((message, name))
        for enum in message.enum_type:
            schema.enums[f"{name}.{enum.name}"] = EnumType(
                f"{name}.{enum.name}", {value.name: value.number for value in enum.value}
            )
        for nested in message.nested_type:
            visit(nested, f"{name}.")

    for enum in proto.enum_type:
        schema.enums[enum.name] = EnumType(enum.name, {value.name: value.number for value in enum.value})
    for message in proto.message_type:
        visit(message, "")
    for message, name in pending:
        for f in message.field:
            kind = _TYPE_NAMES[f.type]
            target = f.type_name[len(prefix) :]
            enum_type = schema.enums[target] if kind == "enum" else None
            repeated = f.label == 3
            default: Default = None if repeated else implicit_default(kind, enum_type)
            if f.HasField("default_value"):
                default = parse_default(kind, f.default_value)
            schema.messages[name].fields[f.name] = FieldType(
                f.name, f.number, kind, repeated, f.label == 2, f.options.packed, default,
                f.HasField("default_value"), enum_type,
                schema.messages[target] if kind == "message" else None,
            )  # fmt: skip
    return schema


def parse_default(kind: str, text: str) -> Default:
    """The value of a default as the schema writes it (strings and enum names without quotes)."""
    if kind in INT_RANGES:
        return int(text, 0)
    if kind == "float":
        # A descriptor gives the rounded value (0.999000013): seven digits are what a float32 can say.
        return float(f"{float(text):.7g}")
    if kind == "double":
        return float(text)
    if kind == "bool":
        return text == "true"
    if kind == "bytes":
        return text.encode("latin-1")
    return text
