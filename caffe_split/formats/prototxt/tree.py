"""Messages and documents that are edited in place; how their text is kept is in `nodes.py`."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

from caffe_split.formats.prototxt import building, layout, scalars
from caffe_split.formats.prototxt.nodes import Field, ListValue, MessageNode, Scalar, copy_value, indent_of
from caffe_split.formats.prototxt.schema import Schema


class Message(MessageNode):
    """An ordered list of fields, read by name and edited in place.

    Names that the schema knows give typed values and defaults; others give what their text says. Edits
    change only the lines of the fields they touch.

    >>> from caffe_split.formats import prototxt
    >>> layer = prototxt.parse('layer { name: "c" convolution_param { num_output: 8 } }').sub("layer")
    >>> layer.get("name"), layer.sub("convolution_param").get("bias_term")
    ('c', True)
    >>> layer.set("name", "conv1")
    >>> str(layer)
    '{ name: "conv1" convolution_param { num_output: 8 } }'
    """

    __slots__ = ()

    def _blank(self, owner: Field | None) -> Message:
        return Message("{" if self._open == "" else self._open, owner)

    # -- editing

    def set(self, name: str, value: Any) -> None:
        """Write `value` over the last occurrence, or add the field where it fits.

        `value` is a str, int, float, bool, `Enum`, or for a message a dict or a list of (name, value) pairs.
        """
        old = self.field(name)
        if old is None:
            self.add(name, value)
            return
        new = building.build(name, value)
        if self._open is None:
            old.value = new.value
            building.adopt(old)
            return
        self._dress(new, "", indent_of(old), building.is_inline(old))
        if isinstance(old.value, Scalar) and isinstance(new.value, Scalar):
            was, now = str(old.value), str(new.value)
            if isinstance(value, str) and scalars.is_string(was) and scalars.is_string(now):
                new.value.raw = scalars.quoted(value, was[0])
        if isinstance(old.value, ListValue) and old.value.items:
            if not isinstance(new.value, ListValue):
                old.value.items[-1] = new.value
                if isinstance(new.value, MessageNode):
                    new.value._field = old
                return
        elif isinstance(new.value, MessageNode) != isinstance(old.value, MessageNode):
            old._sep = new._sep
        old.value = new.value
        building.adopt(old)
        self._keep_apart(self._index(old) + 1)

    def add(self, name: str, value: Any, after: Field | None = None) -> Field:
        """Add one more occurrence: after `after`, else after the last of its name, else where it fits.

        A field of a new name stands after the last scalar when it is a scalar, and at the end when it is a
        message. Returns the new field.
        """
        new = building.build(name, value)
        if after is not None:
            self.insert_after(after, new)
            return new
        last = self.field(name)
        if last is None and not isinstance(new.value, MessageNode):
            last = next((f for f in reversed(self._fields) if not isinstance(f.value, MessageNode)), None)
            if last is None and self._fields:
                self.insert_before(self._fields[0], new)
                return new
        self._insert(self._index(last) + 1 if last is not None else len(self._fields), new)
        return new

    def append(self, new: Field) -> None:
        """Put a detached field at the end."""
        self._insert(len(self._fields), new)

    def remove(self, field: Field | str, keep_comment: bool = False, keep_blank: bool = True) -> None:
        """Remove all fields of that name, or that field, with its whole lines if nothing else is on them.

        Comment lines above it stay in the file; a comment behind it on its line goes with it, or with
        `keep_comment` gets a line of its own. Blank lines above it stay, unless `keep_blank` is False: then what an
        insertion had put there goes, and the text before the insertion comes back.
        """
        for f in self.all_fields(field) if isinstance(field, str) else [field]:
            index = self._index(f)
            if self._open is not None:
                document = self._field is None
                last = index + 1 == len(self._fields)
                after = self._gap(index + 1)
                lead = f._lead or ""
                if not keep_blank and not lead.strip():
                    lead = layout.without_blank_lines(lead)
                gap = layout.cut_field(lead, after, document and index == 0, document and last)
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
        building.check_detached(new)
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
            building.check_detached(item)
        if not new:
            self.remove(field)
            return
        index = self._index(field)
        lead, indent = field._lead, indent_of(field)
        first = new[0]
        if self._open is not None:
            for item in new:  # all of them first: a value that does not fit must leave the document alone
                self._dress(item, lead or "", indent, building.is_inline(field))
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
            if (
                isinstance(previous.value, Scalar)
                and not previous._trail
                and not scalars.is_string(str(previous.value))
            ):
                self._fields[index]._lead = " "

    def _style(self) -> layout.Style:
        root = self
        while root._field is not None and root._field._parent is not None:
            root = root._field._parent
        return root._own_style()

    def _own_style(self) -> layout.Style:
        return building.sample_style(self)

    def _insert(self, index: int, new: Field) -> None:
        """Put `new` at `index`, on the side of the field before it."""
        building.check_detached(new)
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
            if isinstance(previous.value, MessageNode) and isinstance(new.value, MessageNode):
                later = [f for f in self._fields[1:] if isinstance(f.value, MessageNode)]
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
            building.fill(new, self._style(), indent, inline)
        finally:
            new._parent = None
        new._lead = lead
        new._indent = None


class Document(Message):
    """A whole file: a `Message` that knows its `kind` ("net", "solver" or None), `filename` and schema.

    `str()` gives the text and `to_bytes()` the bytes it was read from, edits apart.
    """

    __slots__ = ("_cached_style", "_newline", "filename", "kind", "schema")

    def __init__(self, filename: str, schema: Schema, newline: str = "\n") -> None:
        super().__init__("")
        self.filename = filename
        self.schema = schema
        self._newline = newline
        self.kind: str | None = None
        self._type = None
        self._cached_style: layout.Style | None = None

    def copy(self) -> Document:
        """A deep copy; its fields keep the places they were read from."""
        return self._with_fields_of(self, self.kind)

    def inner(self, message: Message) -> Document:
        """A net that stands within this document (a solver's `net_param`), as a document of its own.

        Its lines keep their comments and lose the indent of the message; the fields keep the places they were
        read from.
        """
        twin = self._with_fields_of(message, "net")
        if twin._fields:
            building.outdent(twin)
        return twin

    def _with_fields_of(self, message: Message, kind: str | None) -> Document:
        twin = Document(self.filename, self.schema, self._newline)
        source = copy_value(message, None)
        assert isinstance(source, Message)
        twin.kind, twin._type = kind, message.type if message.type is not None else message._type
        twin._fields, twin._tail = source._fields, source._tail
        for f in twin._fields:
            f._parent = twin
        return twin

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return str(self).encode("utf-8", "surrogateescape")

    def _own_style(self) -> layout.Style:
        # Once a document: an edit must not change what the next one looks like.
        if self._cached_style is None:
            self._cached_style = replace(building.sample_style(self), newline=self._newline)
        return self._cached_style
