"""The tree of a prototxt: every node keeps its own text, so that str() is the file again.

A `Field` holds the text before it (its lead: whitespace and comments), its name, what stands between name
and value, the value, and a separator if there is one. A `Message` is an ordered list of fields and the
text before its closing brace. Fields built by a program have no text until they are put into a message,
which gives them the look of the file.
"""

from __future__ import annotations

import bisect
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Union

from caffe_split.errors import CaffeSplitError
from caffe_split.proto import layout, values
from caffe_split.proto.schema import FieldType, MessageType, Schema

UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET"})()
_UNRESOLVED: Any = object()


class Source:
    """The text a document was read from: gives the line and column of an offset, and errors with them."""

    __slots__ = ("filename", "text", "_starts")

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self._starts: list[int] | None = None

    def place(self, offset: int) -> tuple[int, int]:
        """The line and the column, both from 1; a BOM counts for nothing."""
        if self._starts is None:
            starts = [1 if self.text.startswith("\ufeff") else 0]
            position = self.text.find("\n")
            while position >= 0:
                starts.append(position + 1)
                position = self.text.find("\n", position + 1)
            self._starts = starts
        line = max(bisect.bisect_right(self._starts, offset), 1)
        return line, max(offset - self._starts[line - 1], 0) + 1

    def error(self, offset: int, message: str) -> CaffeSplitError:
        line, column = self.place(offset)
        return CaffeSplitError(f"{self.filename}:{line}:{column}: {message}")


class Scalar:
    """The text of one value, `raw`; what it means depends on the field it stands in."""

    __slots__ = ("raw", "_python")

    def __init__(self, raw: str | None, python: object = None) -> None:
        self.raw = raw  # None: built by a program and not yet written
        self._python = python

    def __str__(self) -> str:
        return self.raw if self.raw is not None else values.encode(self._python, None)

    def __repr__(self) -> str:
        return f"Scalar({self})"


class ListValue:
    """A short list `[1, 2]`: `items` are the values, `_gaps` the texts around them."""

    __slots__ = ("items", "_gaps")

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

    __slots__ = ("name", "value", "_lead", "_sep", "_trail", "_offset", "_source", "_parent", "_indent")

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
        return self.value if isinstance(self.value, Message) else None

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
        twin.value = _copy_value(self.value, twin)
        return twin

    def values(self) -> list[Any]:
        """The typed values of this occurrence: one, or those of a short list; messages as `Message`."""
        nodes = self.value.items if isinstance(self.value, ListValue) else [self.value]
        return [node if isinstance(node, Message) else self._decode(node) for node in nodes]

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
            field = self.copy()
            render(field, "", layout.Style(), inline=False)
        out: list[str] = []
        _write_field(field, out)
        return "".join(out)[len(field._lead or "") :]

    def __repr__(self) -> str:
        return f"<Field {self.name} at {self.line}:{self.column}>"


class Message:
    """An ordered list of fields, read by name and edited in place.

    Names that the schema knows give typed values and defaults; others give what their text says. Edits
    change only the lines of the fields they touch.

    >>> from caffe_split.proto import prototxt
    >>> layer = prototxt.parse('layer { name: "c" convolution_param { num_output: 8 } }').sub("layer")
    >>> layer.get("name"), layer.sub("convolution_param").get("bias_term")
    ('c', True)
    >>> layer.set("name", "conv1")
    >>> str(layer)
    '{ name: "conv1" convolution_param { num_output: 8 } }'
    """

    __slots__ = ("_fields", "_open", "_tail", "_field", "_type")

    def __init__(self, open_: str | None = None, field: Field | None = None) -> None:
        self._fields: list[Field] = []
        self._open = open_  # "{" or "<"; "" for a document; None: built by a program and not yet written
        self._tail = ""  # text before the closing brace
        self._field = field  # the field whose value this is
        self._type: MessageType | None = _UNRESOLVED

    # -- reading

    @property
    def fields(self) -> list[Field]:
        """All fields in order (a new list: change the message by its methods)."""
        return list(self._fields)

    @property
    def type(self) -> MessageType | None:
        """What the schema says of this message, or None when it does not know it."""
        if self._type is not _UNRESOLVED:
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
                if isinstance(f.value, Message):
                    out.append(f.value)
                elif isinstance(f.value, ListValue):
                    out.extend(item for item in f.value.items if isinstance(item, Message))
        return out

    # -- editing

    def set(self, name: str, value: Any) -> None:
        """Write `value` over the last occurrence, or add the field where it fits.

        `value` is a str, int, float, bool, `Enum`, or for a message a dict or a list of (name, value) pairs.
        """
        old = self.field(name)
        if old is None:
            self.add(name, value)
            return
        new = build(name, value)
        if self._open is None:
            old.value = new.value
            _adopt(old)
            return
        self._dress(new, "", indent_of(old), _is_inline(old))
        if isinstance(old.value, ListValue) and old.value.items:
            if not isinstance(new.value, ListValue):
                old.value.items[-1] = new.value
                if isinstance(new.value, Message):
                    new.value._field = old
                return
        elif isinstance(new.value, Message) != isinstance(old.value, Message):
            old._sep = new._sep
        old.value = new.value
        _adopt(old)
        self._keep_apart(self._index(old) + 1)

    def add(self, name: str, value: Any, after: Field | None = None) -> Field:
        """Add one more occurrence: after `after`, else after the last of its name, else where it fits.

        A field of a new name stands after the last scalar when it is a scalar, and at the end when it is a
        message. Returns the new field.
        """
        new = build(name, value)
        if after is not None:
            self.insert_after(after, new)
            return new
        last = self.field(name)
        if last is None and not isinstance(new.value, Message):
            last = next((f for f in reversed(self._fields) if not isinstance(f.value, Message)), None)
            if last is None and self._fields:
                self.insert_before(self._fields[0], new)
                return new
        self._insert(self._index(last) + 1 if last is not None else len(self._fields), new)
        return new

    def append(self, new: Field) -> None:
        """Put a detached field at the end."""
        self._insert(len(self._fields), new)

    def remove(self, field: Field | str, keep_comment: bool = False) -> None:
        """Remove all fields of that name, or that field, with its whole lines if nothing else is on them.

        Comment lines above it stay in the file; a comment behind it on its line goes with it, or with
        `keep_comment` gets a line of its own.
        """
        for f in self.all_fields(field) if isinstance(field, str) else [field]:
            index = self._index(f)
            if self._open is not None:
                document = self._field is None
                last = index + 1 == len(self._fields)
                after = self._gap(index + 1)
                gap = layout.cut_field(f._lead or "", after, document and index == 0, document and last)
                if keep_comment and "#" not in layout.split_line(gap)[0]:
                    gap = layout.add_comments(gap, layout.comment_behind(after), self._style())
                self._set_gap(index + 1, gap)
            f._indent = indent_of(f)
            f._parent = None
            del self._fields[index]
            self._keep_apart(index)

    def insert_after(self, field: Field, new: Field) -> None:
        """Put a detached field behind `field`; a comment on the line of `field` stays with it."""
        self._insert(self._index(field) + 1, new)

    def insert_before(self, field: Field, new: Field) -> None:
        """Put a detached field before `field`, above the comment lines that touch it from above."""
        index = self._index(field)
        _check_detached(new)
        if self._open is None:
            self._put(index, new, None)
            return
        lead = field._lead or ""
        if not layout.begins_line(lead, self._field is None and index == 0):
            self._put(index, new, lead)
            field._lead = " "
            return
        above, own = layout.split_own_comments(lead)
        newline = self._style().newline
        bom = "\ufeff" if own.startswith("\ufeff") else ""
        indent = layout.line_indent(lead)
        if own.startswith(("\n", "\r\n")):
            self._put(index, new, above + newline + indent)
            field._lead = own
        else:  # the first line of the file
            self._put(index, new, bom + indent)
            field._lead = newline + own[len(bom) :]

    def replace(self, field: Field, new: Sequence[Field]) -> None:
        """Put detached fields in the place of `field`; the first stands under the comments above it."""
        for item in new:
            _check_detached(item)
        if not new:
            self.remove(field)
            return
        index = self._index(field)
        lead, indent = field._lead, indent_of(field)
        first = new[0]
        if self._open is not None:
            for item in new:  # all of them first: a value that does not fit must leave the document alone
                self._dress(item, lead or "", indent, _is_inline(field))
                item._indent = indent
        self._fields[index] = first
        first._parent = self
        first._indent = None
        field._parent = None
        field._indent = indent
        self._keep_apart(index + 1)
        for previous, item in zip(new, new[1:]):
            self.insert_after(previous, item)

    def add_comments(self, field: Field, comments: list[str]) -> None:
        """Put comments, each with its `#`, on lines of their own above `field`."""
        if comments:
            field._lead = layout.add_comments(field._lead or "", comments, self._style(), indent_of(field))

    # -- how an edit finds its place

    def _index(self, field: Field | None) -> int:
        for index, candidate in enumerate(self._fields):
            if candidate is field:
                return index
        raise ValueError(f"{field!r} is not in this message")

    def _gap(self, index: int) -> str:
        return (self._fields[index]._lead or "") if index < len(self._fields) else self._tail

    def _set_gap(self, index: int, gap: str) -> None:
        if index < len(self._fields):
            self._fields[index]._lead = gap
        else:
            self._tail = gap

    def _keep_apart(self, index: int) -> None:
        """Where a field now touches the one before, and the two would be read as one word: put a space."""
        if 0 < index < len(self._fields) and self._fields[index]._lead == "":
            previous = self._fields[index - 1]
            if isinstance(previous.value, Scalar) and not previous._trail and not values.is_string(str(previous.value)):
                self._fields[index]._lead = " "

    def _style(self) -> layout.Style:
        root = self
        while root._field is not None and root._field._parent is not None:
            root = root._field._parent
        return root._own_style()

    def _own_style(self) -> layout.Style:
        return sample_style(self)

    def _insert(self, index: int, new: Field) -> None:
        """Put `new` at `index`, on the side of the field before it."""
        _check_detached(new)
        if self._open is None:
            self._put(index, new, None)
            return
        style = self._style()
        gap = self._gap(index)
        head, rest = layout.split_line(gap)
        document = self._field is None
        last = index == len(self._fields)
        starters = [f for f in self._fields if "\n" in (f._lead or "")]
        if index == 0 and document:
            # An empty file, or one of comments only: the field comes behind them.
            lead = gap if not gap.strip("\ufeff") or gap.endswith("\n") else gap + style.newline
            self._put(index, new, lead)
            self._tail = style.newline
            return
        if not rest and not (last and (document or starters or not self._fields)):
            self._put(index, new, gap if gap and "#" not in gap else " ")
            self._set_gap(index + 1, gap or " ")
            return
        indent = self._child_indent(index, style)
        parting = ""
        if index > 0:
            previous = self._fields[index - 1]
            if isinstance(previous.value, Message) and isinstance(new.value, Message):
                later = [f for f in self._fields[1:] if isinstance(f.value, Message)]
                if later and layout.has_blank_line(later[-1]._lead or ""):
                    parting = style.newline
        self._put(index, new, head.rstrip(" \t") + style.newline + parting + indent)
        if last and not document and not rest:
            tail = " " if self._fields[:-1] else style.newline + indent_of(self._field)
            self._tail = tail
        else:
            self._set_gap(index + 1, rest)

    def _child_indent(self, index: int, style: layout.Style) -> str:
        """The indent of a new line at `index`: that of the nearest field that begins a line."""
        for f in (*reversed(self._fields[:index]), *self._fields[index:]):
            if "\n" in (f._lead or ""):
                return layout.line_indent(f._lead or "")
        if self._field is None:
            return layout.line_indent(self._fields[0]._lead or "") if self._fields else ""
        return indent_of(self._field) + style.indent

    def _put(self, index: int, new: Field, lead: str | None) -> None:
        if lead is not None:
            inline = "\n" not in lead and self._field is not None
            at_start = "\n" in lead or self._field is None
            self._dress(new, lead, layout.line_indent(lead) if at_start else indent_of(self._field), inline)
        self._fields.insert(index, new)
        new._parent = self

    def _dress(self, new: Field, lead: str, indent: str, inline: bool) -> None:
        """Give `new` its text: made when a program built it, moved to the depth when it was copied."""
        new._parent = self
        try:
            _fill(new, self._style(), indent, inline)
        finally:
            new._parent = None
        new._lead = lead
        new._indent = None

    def __str__(self) -> str:
        if self._open is None:
            message = _copy_value(self, None)
            assert isinstance(message, Message)
            _render_message(message, "", layout.Style(), inline=False)
            return str(message)
        out: list[str] = []
        _write_value(self, out)
        return "".join(out)

    def __repr__(self) -> str:
        name = self._type.name if isinstance(self._type, MessageType) else "message"
        return f"<{type(self).__name__} {name} of {len(self._fields)} fields>"


class Document(Message):
    """A whole file: a `Message` that knows its `kind` ("net", "solver" or None), `filename` and schema.

    `str()` gives the text and `to_bytes()` the bytes it was read from, edits apart.
    """

    __slots__ = ("kind", "filename", "schema", "_cached_style")

    def __init__(self, filename: str, schema: Schema) -> None:
        super().__init__("")
        self.filename = filename
        self.schema = schema
        self.kind: str | None = None
        self._type = None
        self._cached_style: layout.Style | None = None

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return str(self).encode("utf-8", "surrogateescape")

    def _own_style(self) -> layout.Style:
        # Once a document: an edit must not change what the next one looks like.
        if self._cached_style is None:
            self._cached_style = sample_style(self)
        return self._cached_style


def sample_style(message: Message, limit: int = 2000) -> layout.Style:
    """The style of the first fields of a message, nested ones included."""
    samples: list[layout.Sample] = []

    def visit(message: Message, outer: str) -> None:
        for f in message._fields:
            if len(samples) >= limit:
                return
            lead = f._lead or ""
            is_message = isinstance(f.value, Message)
            raw = f.value.raw or "" if isinstance(f.value, Scalar) else ""
            if f._sep is not None and not isinstance(f.value, ListValue):
                samples.append(layout.Sample(lead, f._sep, is_message, raw, outer))
            if isinstance(f.value, Message):
                visit(f.value, layout.line_indent(lead) if "\n" in lead else outer)

    visit(message, "")
    # The newline of a file of one line stands in no field's lead.
    return layout.style_of(samples, message._tail)


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


def _is_inline(field: Field) -> bool:
    """Whether new text in the place of `field` should stay on one line."""
    if isinstance(field.value, Message):
        return "\n" not in str(field.value)
    return "\n" not in (field._lead or "") and field._parent is not None and field._parent._field is not None


def _occurs(field: Field) -> bool:
    return not isinstance(field.value, ListValue) or bool(field.value.items)


def _check_detached(field: Field) -> None:
    if field._parent is not None:
        raise ValueError(f"{field!r} stands in a message already: insert field.copy()")


def _adopt(field: Field) -> None:
    """Let the messages in a field's value know the field."""
    nodes = field.value.items if isinstance(field.value, ListValue) else [field.value]
    for node in nodes:
        if isinstance(node, Message):
            node._field = field


def _copy_value(value: Node, owner: Field | None) -> Node:
    if isinstance(value, Scalar):
        return Scalar(value.raw, value._python)
    if isinstance(value, ListValue):
        items = [_copy_value(item, owner) for item in value.items]
        return ListValue(items, list(value._gaps))  # type: ignore[arg-type]
    twin = Message(value._open, owner)
    twin._tail = value._tail
    twin._type = value.type if value.type is not None else value._type
    for f in value._fields:
        child = Field(f.name, f.value, f._lead, f._sep, f._offset, f._source, twin)
        child._trail = f._trail
        child._indent = f._indent
        child.value = _copy_value(f.value, child)
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


# -- building and dressing


def build(name: str, value: Any) -> Field:
    """A detached field; its text is made when it enters a message. See `prototxt.field`."""
    field = Field(name, Scalar(None))
    if isinstance(value, Message):
        twin = _copy_value(value, field)
        field.value = twin
        field._indent = indent_of(value._field)
    elif isinstance(value, Mapping) or _are_pairs(value):
        message = Message(None, field)
        for key, item in value.items() if isinstance(value, Mapping) else _pairs(value):
            many = isinstance(item, (list, tuple)) and not _are_pairs(item)
            for single in item if many else [item]:
                child = single if isinstance(single, Field) else build(key, single)
                _check_detached(child)
                child._parent = message
                message._fields.append(child)
        field.value = message
    elif isinstance(value, (list, tuple)):
        field.value = ListValue([Scalar(None, item) for item in value], [])
    else:
        field.value = Scalar(None, value)
    return field


def build_line(name: str, value: Any, beside: Message) -> Field:
    """A detached message on one line, in the style of the file of `beside`."""
    field = build(name, value)
    render(field, "", beside._style(), inline=True)
    return field


def forget_types(message: Message) -> None:
    """After fields were renamed: let all messages below look up their types again."""
    for f in message._fields:
        for node in f.value.items if isinstance(f.value, ListValue) else [f.value]:
            if isinstance(node, Message):
                node._type = _UNRESOLVED
                forget_types(node)


def _are_pairs(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, Field) or (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str))
        for item in value
    )


def _pairs(value: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(item.name, item) if isinstance(item, Field) else item for item in value]


def _fill(field: Field, style: layout.Style, indent: str, inline: bool) -> None:
    """Make the text of a field that has none, and move that of a copy to `indent`."""
    if field._sep is not None and field._indent is not None and field._indent != indent:
        _shift(field.value, field._indent, indent)
    render(field, indent, style, inline)


def render(field: Field, indent: str, style: layout.Style, inline: bool) -> None:
    """Give text to whatever in `field` has none; values are checked against the schema where it can."""
    if field._lead is None:
        field._lead = ""
    if field._sep is None:
        field._sep = style.brace if isinstance(field.value, Message) else style.colon
    try:
        if isinstance(field.value, Scalar):
            _render_scalar(field.value, field.known, style)
        elif isinstance(field.value, ListValue):
            for item in field.value.items:
                if isinstance(item, Scalar):
                    _render_scalar(item, field.known, style)
            if not field.value._gaps:
                commas = [", "] * (len(field.value.items) - 1) + ["]"]
                field.value._gaps = ["[", *commas] if field.value.items else ["[]"]
        else:
            _render_message(field.value, indent, style, inline)
    except values.BadValue as error:
        raise CaffeSplitError(f"cannot write field {field.name}: {error}") from None


def _render_scalar(scalar: Scalar, known: FieldType | None, style: layout.Style) -> None:
    if scalar.raw is None:
        scalar.raw = values.encode(scalar._python, known, style.quote)


def _render_message(message: Message, indent: str, style: layout.Style, inline: bool) -> None:
    inner = indent + style.indent
    fresh = message._open is None
    if fresh:
        message._open = "{"
        message._tail = " " if inline or not message._fields else style.newline + indent
    for f in message._fields:
        copied = f._lead is not None
        if copied and not fresh:
            render(f, layout.line_indent(f._lead or "") if "\n" in (f._lead or "") else indent, style, inline)
            continue
        if copied:
            _fill(f, style, inner, inline)
        else:
            render(f, inner, style, inline)
        f._indent = None
        f._lead = " " if inline else style.newline + inner


def _shift(value: Node, old: str, new: str) -> None:
    if isinstance(value, Message):
        for f in value._fields:
            f._lead = layout.reindent(f._lead or "", old, new)
            _shift(f.value, old, new)
        value._tail = layout.reindent(value._tail, old, new)
    elif isinstance(value, ListValue):
        value._gaps = [layout.reindent(gap, old, new) for gap in value._gaps]
        for item in value.items:
            _shift(item, old, new)


__all__ = ["UNSET", "Document", "Field", "ListValue", "Message", "Scalar", "Source", "build"]
