"""The nodes of a document, as they are read: every node keeps its own text, so that str() is the file again.

A `Field` holds the text before it (its lead: whitespace and comments), its name, what stands between name
and value, the value, and a separator if there is one. A message is an ordered list of fields and the text
before its closing brace. Fields built by a program have no text until they are put into a message, which
gives them the look of the file (`building.py`).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, Union, cast

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import layout
from caffe_split.formats.prototxt import scalars as values
from caffe_split.formats.prototxt.schema import FieldType, MessageType
from caffe_split.formats.prototxt.source import Source

if TYPE_CHECKING:
    from caffe_split.formats.prototxt.tree import Message

UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET"})()
UNRESOLVED: Any = object()


class Scalar:
    """The text of one value, `raw`; what it means depends on the field it stands in."""

    __slots__ = ("_python", "raw")

    def __init__(self, raw: str | None, python: object = None) -> None:
        self.raw = raw  # None: built by a program and not yet written
        self._python = python

    def __str__(self) -> str:
        return self.raw if self.raw is not None else values.encode(self._python, None)

    def __repr__(self) -> str:
        return f"Scalar({self})"


class ListValue:
    """A short list `[1, 2]`: `items` are the values, `_gaps` the texts around them."""

    __slots__ = ("_gaps", "items")

    def __init__(self, items: list[Scalar | Message], gaps: list[str]) -> None:
        self.items = items
        self._gaps = gaps  # "[" with what follows, then what stands after each item

    def __str__(self) -> str:
        out: list[str] = []
        _write_value(self, out)
        return "".join(out)


Node = Union[Scalar, "Message", ListValue]


class Field:
    """One occurrence of a field: `name`, `value` (`Scalar`, `Message` or `ListValue`) and where it stood."""

    __slots__ = ("_indent", "_lead", "_offset", "_parent", "_sep", "_source", "_trail", "name", "value")

    def __init__(
        self,
        name: str,
        value: Node,
        lead: str | None = None,
        sep: str | None = None,
        offset: int = -1,
        source: Source | None = None,
        parent: Message | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self._lead = lead  # None: built by a program and not yet written
        self._sep = sep
        self._trail = ""
        self._offset = offset
        self._source = source
        self._parent = parent
        self._indent: str | None = None  # of a detached copy: how deep its text was

    @property
    def line(self) -> int:
        """The line it was read from, from 1; 0 for a field built by a program."""
        return self._source.place(self._offset)[0] if self._source else 0

    @property
    def column(self) -> int:
        """The column it was read from, from 1; 0 for a field built by a program."""
        return self._source.place(self._offset)[1] if self._source else 0

    @property
    def message(self) -> Message | None:
        """The value if it is one message, else None."""
        return self.value if isinstance(self.value, MessageNode) else None

    @property
    def parent(self) -> Message | None:
        """The message the field stands in; None when it is detached."""
        return self._parent

    @property
    def known(self) -> FieldType | None:
        """What the schema says of the field, or None."""
        kind = self._parent.type if self._parent is not None else None
        return kind.fields.get(self.name) if kind is not None else None

    def copy(self) -> Field:
        """A detached deep copy; its inner text, comments included, stays as it is."""
        twin = Field(self.name, self.value, self._lead, self._sep, self._offset, self._source)
        twin._trail = self._trail
        twin._indent = self._indent if self._indent is not None else indent_of(self)
        twin.value = copy_value(self.value, twin)
        return twin

    def values(self) -> list[Any]:
        """The typed values of this occurrence: one, or those of a short list; messages as `Message`."""
        nodes = self.value.items if isinstance(self.value, ListValue) else [self.value]
        return [node if isinstance(node, MessageNode) else self._decode(node) for node in nodes]

    def _decode(self, scalar: Scalar) -> Any:
        if scalar.raw is None:
            return scalar._python
        try:
            return values.decode(scalar.raw, self.known)
        except values.BadValue as error:
            raise self.error(f"field {self.name}: {error}") from None

    def error(self, message: str) -> CaffeSplitError:
        """An error that names the place of this field."""
        if self._source is None:
            return CaffeSplitError(message)
        return self._source.error(self._offset, message)

    def __str__(self) -> str:
        field = self
        if field._lead is None or field._sep is None:
            from caffe_split.formats.prototxt import building

            field = self.copy()
            building.render(field, "", layout.Style(), inline=False)
        out: list[str] = []
        _write_field(field, out)
        return "".join(out)[len(field._lead or "") :]

    def __repr__(self) -> str:
        return f"<Field {self.name} at {self.line}:{self.column}>"


class MessageNode:
    """An ordered list of fields, read by name; `tree.Message` adds the edits."""

    __slots__ = ("_field", "_fields", "_open", "_tail", "_type")

    def __init__(self, open_: str | None = None, field: Field | None = None) -> None:
        self._fields: list[Field] = []
        self._open = open_  # "{" or "<"; "" for a document; None: built by a program and not yet written
        self._tail = ""  # text before the closing brace
        self._field = field  # the field whose value this is
        self._type: MessageType | None = UNRESOLVED

    # -- reading

    @property
    def fields(self) -> list[Field]:
        """All fields in order (a new list: change the message by its methods)."""
        return list(self._fields)

    @property
    def type(self) -> MessageType | None:
        """What the schema says of this message, or None when it does not know it."""
        if self._type is not UNRESOLVED:
            return self._type
        if self._field is None or self._field._parent is None:
            return None
        known = self._field.known
        self._type = known.message if known is not None else None
        return self._type

    @property
    def line(self) -> int:
        """The line of the field that holds this message; 1 for a document."""
        return self._field.line if self._field is not None else 1

    def __iter__(self) -> Iterator[Field]:
        return iter(list(self._fields))

    def has(self, name: str) -> bool:
        """Whether the field occurs (an empty list `[]` is no occurrence)."""
        return any(f.name == name and _occurs(f) for f in self._fields)

    def field(self, name: str) -> Field | None:
        """The last occurrence, or None."""
        return next((f for f in reversed(self._fields) if f.name == name), None)

    def all_fields(self, name: str) -> list[Field]:
        """All occurrences in order."""
        return [f for f in self._fields if f.name == name]

    def get(self, name: str, default: Any = UNSET) -> Any:
        """The typed value of the last occurrence: str, int, float, bool, an enum's name, or a `Message`.

        When absent: `default` if given, else the schema's default (what Caffe would see), None for fields
        that are repeated, messages or not known. Raises `CaffeSplitError` when the text does not fit.
        """
        for f in reversed(self._fields):
            if f.name == name and _occurs(f):
                return f.values()[-1]
        if default is not UNSET:
            return default
        known = self.type.fields.get(name) if self.type is not None else None
        if known is None or known.repeated:
            return None
        return values.Enum(known.default) if known.kind == "enum" else known.default

    def get_all(self, name: str) -> list[Any]:
        """The typed values of all occurrences, short lists opened."""
        return [value for f in self._fields if f.name == name for value in f.values()]

    def sub(self, name: str) -> Message | None:
        """The last message of that name, or None."""
        found = self.subs(name)
        return found[-1] if found else None

    def subs(self, name: str) -> list[Message]:
        """All messages of that name."""
        out: list[Message] = []
        for f in self._fields:
            if f.name == name:
                if isinstance(f.value, MessageNode):
                    out.append(f.value)
                elif isinstance(f.value, ListValue):
                    out.extend(item for item in f.value.items if isinstance(item, MessageNode))
        return out

    def __str__(self) -> str:
        if self._open is None:
            from caffe_split.formats.prototxt import building

            message = cast("Message", copy_value(cast("Message", self), None))
            building.render_message(message, "", layout.Style(), inline=False)
            return str(message)
        out: list[str] = []
        _write_value(cast("Message", self), out)
        return "".join(out)

    def __repr__(self) -> str:
        name = self._type.name if isinstance(self._type, MessageType) else "message"
        return f"<{type(self).__name__} {name} of {len(self._fields)} fields>"

    def _blank(self, owner: Field | None) -> Message:
        """An empty message that opens as this one does; that of a document opens with a brace."""
        raise NotImplementedError


def indent_of(field: Field | None) -> str:
    """The indent of the line a field begins on."""
    while field is not None:
        lead = field._lead or ""
        parent = field._parent
        if "\n" in lead or parent is None or parent._field is None:
            if parent is not None and "\n" not in lead and parent._fields[:1] != [field]:
                return ""
            return layout.line_indent(lead)
        field = parent._field
    return ""


def _occurs(field: Field) -> bool:
    return not isinstance(field.value, ListValue) or bool(field.value.items)


def copy_value(value: Node, owner: Field | None) -> Node:
    if isinstance(value, Scalar):
        return Scalar(value.raw, value._python)
    if isinstance(value, ListValue):
        items = [copy_value(item, owner) for item in value.items]
        return ListValue(items, list(value._gaps))  # type: ignore[arg-type]
    twin = value._blank(owner)
    twin._tail = value._tail
    twin._type = value.type if value.type is not None else value._type
    for f in value._fields:
        child = Field(f.name, f.value, f._lead, f._sep, f._offset, f._source, twin)
        child._trail = f._trail
        child._indent = f._indent
        child.value = copy_value(f.value, child)
        twin._fields.append(child)
    return twin


# -- text out


def _write_field(field: Field, out: list[str]) -> None:
    out.append(field._lead or "")
    out.append(field.name)
    out.append(field._sep or "")
    value = field.value
    if type(value) is Scalar:
        out.append(value.raw or "")
    else:
        _write_value(value, out)
    if field._trail:
        out.append(field._trail)


def _write_value(value: Node, out: list[str]) -> None:
    if isinstance(value, Scalar):
        out.append(str(value))
    elif isinstance(value, ListValue):
        out.append(value._gaps[0])
        for item, gap in zip(value.items, value._gaps[1:]):
            _write_value(item, out)
            out.append(gap)
    else:
        out.append(value._open or "")
        for f in value._fields:
            _write_field(f, out)
        out.append(value._tail)
        out.append({"{": "}", "<": ">"}.get(value._open or "", ""))
