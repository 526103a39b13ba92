"""The nodes of a document: each keeps its own text, and the texts one after another are the file again.

A field's text is its lead (the whitespace and comments before its name), its name, the separator between name and
value, its value, and its trail (a `,` or `;` with the gap before it). A message's text is its opening brace, its
fields, its tail (what stands before the closing brace) and that brace.

A node that a program made has no text yet: `lead`, `sep`, `opener` and `raw` are None. `render` makes the text, in
the style of a file; `shift` moves text to another indent.

The attributes are the nodes' data, open to the modules of this room: `placing.py` keeps the gaps right when nodes come
and go, `tree.py` adds reading by name and editing. Other rooms change a document by the methods in `tree.py`.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import Any, TypeVar, Union

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import layout, scalars
from caffe_split.formats.prototxt.schema import FieldType, MessageType
from caffe_split.formats.prototxt.source import Source

_UNRESOLVED: Any = object()
_Field = TypeVar("_Field", bound="FieldNode")
_CLOSERS = {"{": "}", "<": ">"}


class Scalar:
    """One value as text, `raw`; what it means depends on the field it stands in.

    `python` is the value a program gave for it; `raw` is None until that is written.
    """

    __slots__ = ("python", "raw")

    def __init__(self, raw: str | None, python: object = None) -> None:
        self.raw = raw
        self.python = python

    def decode(self, known: FieldType | None) -> Any:
        """The value in the type of its field; `BadValueError` when the text does not fit."""
        return self.python if self.raw is None else scalars.decode(self.raw, known)

    def write(self, out: list[str]) -> None:
        """Append the text to `out`."""
        out.append(str(self))

    def render(self, known: FieldType | None, style: layout.Style, indent: str, inline: bool) -> None:
        """Make the text if there is none; `BadValueError` when the value does not fit `known`."""
        if self.raw is None:
            self.raw = scalars.encode(self.python, known, style.quote)

    def shift(self, old: str, new: str) -> None:
        """Nothing: a scalar's text has no indent."""

    def copy_for(self, owner: FieldNode | None) -> Scalar:
        """A copy for the field `owner`."""
        return Scalar(self.raw, self.python)

    def __str__(self) -> str:
        return self.raw if self.raw is not None else scalars.encode(self.python, None)

    def __repr__(self) -> str:
        return f"Scalar({self})"


class ListValue:
    """A short list, `[1, 2]`.

    `items` are its values. `gaps` are the texts around them: the bracket with what follows it, then what stands
    after each item; empty until the list is written.
    """

    __slots__ = ("gaps", "items")

    def __init__(self, items: list[Scalar | MessageNode], gaps: list[str]) -> None:
        self.items = items
        self.gaps = gaps

    def write(self, out: list[str]) -> None:
        """Append the text to `out`."""
        out.append(self.gaps[0])
        for item, gap in zip(self.items, self.gaps[1:]):
            item.write(out)
            out.append(gap)

    def render(self, known: FieldType | None, style: layout.Style, indent: str, inline: bool) -> None:
        """Make the text that is missing; `BadValueError` when a value does not fit `known`."""
        for item in self.items:
            if isinstance(item, Scalar):
                item.render(known, style, indent, inline)
        if not self.gaps:
            self.gaps = ["[", *[", "] * (len(self.items) - 1), "]"] if self.items else ["[]"]

    def shift(self, old: str, new: str) -> None:
        """Give lines that begin with the indent `old` the indent `new`."""
        self.gaps = [layout.reindent(gap, old, new) for gap in self.gaps]
        for item in self.items:
            item.shift(old, new)

    def copy_for(self, owner: FieldNode | None) -> ListValue:
        """A deep copy for the field `owner`."""
        return ListValue([item.copy_for(owner) for item in self.items], list(self.gaps))

    def __str__(self) -> str:
        value = self
        if not value.gaps:
            value = self.copy_for(None)
            value.render(None, layout.Style(), "", False)
        out: list[str] = []
        value.write(out)
        return "".join(out)


class FieldNode:
    """One occurrence of a field: `name`, `value`, and its own text in `lead`, `sep` and `trail`.

    `parent` is the message it stands in, None when it is detached. `moved_from` is the indent that its text was
    written for, as long as the text is not yet fitted to the place of the field; else None.
    """

    __slots__ = ("_offset", "_source", "lead", "moved_from", "name", "parent", "sep", "trail", "value")

    value: Node
    parent: MessageNode | None

    def __init__(
        self,
        name: str,
        value: Node,
        lead: str | None = None,
        sep: str | None = None,
        offset: int = -1,
        source: Source | None = None,
    ) -> None:
        self.name = name
        self.value = value
        self.lead = lead
        self.sep = sep
        self.trail = ""
        self.parent = None
        self.moved_from: str | None = None
        self._offset = offset
        self._source = source

    # -- where it stands

    @property
    def line(self) -> int:
        """The line it was read from, from 1; 0 for a field built by a program."""
        return self._source.place(self._offset)[0] if self._source else 0

    @property
    def column(self) -> int:
        """The column it was read from, from 1; 0 for a field built by a program."""
        return self._source.place(self._offset)[1] if self._source else 0

    @property
    def indent(self) -> str:
        """The indent of the line on which the field begins; "" when it begins after another field of its message."""
        lead, parent = self.lead or "", self.parent
        if "\n" not in lead and parent is not None:
            if parent.owner is not None:
                return parent.owner.indent
            if parent.children[:1] != [self]:
                return ""
        return layout.line_indent(lead)

    @property
    def known(self) -> FieldType | None:
        """What the schema says of the field, or None."""
        kind = self.parent.type if self.parent is not None else None
        return kind.fields.get(self.name) if kind is not None else None

    def error(self, message: str) -> CaffeSplitError:
        """An error that names the place of this field."""
        if self._source is None:
            return CaffeSplitError(message)
        return self._source.error(self._offset, message)

    # -- its value and its place are changed

    def hold(self, value: Node) -> None:
        """Make `value` the field's value; a message in it then belongs to the field."""
        self.value = value
        for node in value.items if isinstance(value, ListValue) else [value]:
            if isinstance(node, MessageNode):
                node.owner = self

    def detach(self) -> None:
        """Forget the message the field stands in, and remember the indent that its text had there."""
        self.moved_from = self.indent
        self.parent = None

    def copy_into(self: _Field, parent: MessageNode | None) -> _Field:
        """A deep copy with the text as it is, whose parent is `parent`. It is not in the parent's children yet."""
        value = self.value
        twin = type(self)(self.name, value, self.lead, self.sep, self._offset, self._source)
        twin.parent = parent
        twin.trail = self.trail
        twin.moved_from = self.moved_from
        twin.value = Scalar(value.raw, value.python) if type(value) is Scalar else value.copy_for(twin)
        return twin

    # -- its text

    def write(self, out: list[str]) -> None:
        """Append the text to `out`."""
        out.append(self.lead or "")
        out.append(self.name)
        out.append(self.sep or "")
        value = self.value
        if type(value) is Scalar:
            out.append(value.raw or "")
        else:
            value.write(out)
        if self.trail:
            out.append(self.trail)

    def render(self, style: layout.Style, indent: str, inline: bool) -> None:
        """Make the text that is missing in the field and below; `indent` is that of the field's line.

        Raises `CaffeSplitError` when a value does not fit its field in the schema.
        """
        if self.lead is None:
            self.lead = ""
        if self.sep is None:
            self.sep = style.brace if isinstance(self.value, MessageNode) else style.colon
        try:
            self.value.render(self.known, style, indent, inline)
        except scalars.BadValueError as error:
            raise CaffeSplitError(f"cannot write field {self.name}: {error}") from None

    def fit(self, style: layout.Style, indent: str, inline: bool) -> None:
        """`render`, after text that was written for another indent has been moved to `indent`."""
        if self.moved_from is not None and self.moved_from != indent:
            self.value.shift(self.moved_from, indent)
        self.render(style, indent, inline)

    def shift(self, old: str, new: str) -> None:
        """Give lines that begin with the indent `old` the indent `new`."""
        self.lead = layout.reindent(self.lead or "", old, new)
        self.value.shift(old, new)

    def __str__(self) -> str:
        field = self
        if field.lead is None or field.sep is None:
            field = self.copy_into(None)
            field.render(layout.Style(), "", inline=False)
        out: list[str] = []
        field.write(out)
        return "".join(out)[len(field.lead or "") :]

    def __repr__(self) -> str:
        return f"<Field {self.name} at {self.line}:{self.column}>"


class MessageNode:
    """An ordered list of fields, `children`, between an `opener` and the closing brace, with the `tail` before it.

    `opener` is "{" or "<", "" for a whole document, and None until the message is written. `owner` is the field whose
    value the message is; None for a document.
    """

    __slots__ = ("_type", "children", "opener", "owner", "tail")

    owner: FieldNode | None

    def __init__(self, opener: str | None = None, owner: FieldNode | None = None) -> None:
        self.children: list[FieldNode] = []
        self.opener = opener
        self.tail = ""
        self.owner = owner
        self._type: MessageType | None = _UNRESOLVED

    @property
    def type(self) -> MessageType | None:
        """What the schema says of this message, or None when it does not know it."""
        if self._type is not _UNRESOLVED:
            return self._type
        if self.owner is None or self.owner.parent is None:
            return None
        known = self.owner.known
        self._type = known.message if known is not None else None
        return self._type

    @type.setter
    def type(self, value: MessageType | None) -> None:
        self._type = value

    def forget_types(self) -> None:
        """After fields were renamed: all messages below look up their types again."""
        for child in self.children:
            for node in child.value.items if isinstance(child.value, ListValue) else [child.value]:
                if isinstance(node, MessageNode):
                    node.type = _UNRESOLVED
                    node.forget_types()

    @property
    def indent(self) -> str:
        """The indent of the line on which the message begins."""
        return self.owner.indent if self.owner is not None else ""

    def style(self) -> layout.Style:
        """How the file around the message is written."""
        root = self
        while root.owner is not None and root.owner.parent is not None:
            root = root.owner.parent
        return root.own_style()

    def own_style(self) -> layout.Style:
        """How the message is written, by its first fields."""
        return layout.style_of(itertools.islice(self.samples(""), 2000))

    def samples(self, outer: str) -> Iterator[layout.Sample]:
        """What each field shows of the style, in order, those of inner messages too; `outer` is the indent around."""
        for child in self.children:
            lead, value = child.lead or "", child.value
            if child.sep is not None and not isinstance(value, ListValue):
                raw = value.raw or "" if isinstance(value, Scalar) else ""
                yield layout.Sample(lead, child.sep, isinstance(value, MessageNode), raw, outer)
            if isinstance(value, MessageNode):
                yield from value.samples(layout.line_indent(lead) if "\n" in lead else outer)

    def blank(self, owner: FieldNode | None) -> MessageNode:
        """An empty message that opens as this one does; for that of a document, with a brace."""
        return type(self)("{" if self.opener == "" else self.opener, owner)

    def copy_for(self, owner: FieldNode | None) -> MessageNode:
        """A deep copy, with the text as it is, for the field `owner`."""
        twin = self.blank(owner)
        twin.tail = self.tail
        known = self.type
        twin.type = known if known is not None else self._type
        twin.children = [child.copy_into(twin) for child in self.children]
        return twin

    # -- its text

    def write(self, out: list[str]) -> None:
        """Append the text to `out`."""
        opener = self.opener or ""
        out.append(opener)
        for child in self.children:
            child.write(out)
        out.append(self.tail)
        out.append(_CLOSERS.get(opener, ""))

    def render(self, known: FieldType | None, style: layout.Style, indent: str, inline: bool) -> None:
        """Make the text that is missing in the message and below; `indent` is that of the line it begins on."""
        inner = indent + style.indent
        fresh = self.opener is None
        if fresh:
            self.opener = "{"
            self.tail = " " if inline or not self.children else style.newline + indent
        for child in self.children:
            lead = child.lead
            if lead is not None and not fresh:
                child.render(style, layout.line_indent(lead) if "\n" in lead else indent, inline)
                continue
            if lead is not None:
                child.fit(style, inner, inline)
            else:
                child.render(style, inner, inline)
            child.moved_from = None
            child.lead = " " if inline else style.newline + inner

    def shift(self, old: str, new: str) -> None:
        """Give lines that begin with the indent `old` the indent `new`."""
        for child in self.children:
            child.shift(old, new)
        self.tail = layout.reindent(self.tail, old, new)

    def __str__(self) -> str:
        message = self
        if message.opener is None:
            message = self.copy_for(None)
            message.render(None, layout.Style(), "", inline=False)
        out: list[str] = []
        message.write(out)
        return "".join(out)


Node = Union[Scalar, ListValue, MessageNode]
