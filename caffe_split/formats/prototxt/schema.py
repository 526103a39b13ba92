"""What is known of each message: fields, numbers, types, labels, defaults, enum names.

A `Schema` is made of plain Python objects, read from a .proto file by `proto2.py`: ours, beside this module, or a
fork's own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Union

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
                    f.number,
                    f.kind,
                    f.repeated,
                    f.required,
                    f.packed,
                    f.has_default,
                    f.default,
                    f.enum and (f.enum.name, tuple(sorted(f.enum.values.items()))),
                    f.message and f.message.name,
                )
                for f in message.fields.values()
            }
            for message in self.messages.values()
        }


def implicit_default(kind: str, enum: EnumType | None) -> Default:
    """What proto2 gives for an absent singular field that declares no default."""
    if kind == "enum":
        assert enum is not None
        return next(iter(enum.values))
    if kind == "message":
        return None
    zeros: dict[str, Default] = {"string": "", "bytes": b"", "bool": False, "float": 0.0, "double": 0.0}
    return zeros.get(kind, 0)
