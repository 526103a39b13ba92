"""The tree as its users have it: fields with typed values, messages that are read by name and edited in place.

The text of each node is in `nodes.py`; what an edit does to the text around it is in `placing.py`.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, cast

from caffe_split.formats.prototxt import layout, placing, scalars
from caffe_split.formats.prototxt.nodes import FieldNode, ListValue, MessageNode, Scalar
from caffe_split.formats.prototxt.schema import FieldType

_WORD = re.compile(r"[-+.:\w]+")
UNSET: Any = type("Unset", (), {"__repr__": lambda self: "UNSET"})()


class Field(FieldNode):
    """One occurrence of a field: its `name`, its `value` (`Scalar`, `Message` or `ListValue`) and where it stood.

    `parent` is the message it stands in; None when it is detached, as after `copy` and `remove`.
    """

    __slots__ = ()

    value: Scalar | ListValue | Message
    parent: Message | None

    @property
    def message(self) -> Message | None:
        """The value if it is one message, else None."""
        return self.value if isinstance(self.value, Message) else None

    @property
    def occurs(self) -> bool:
        """False for an empty list `[]`, which gives no value."""
        return not isinstance(self.value, ListValue) or bool(self.value.items)

    def values(self, known: FieldType | None = None) -> list[Any]:
        """The typed values of this occurrence: one, or those of a short list; messages as `Message`.

        `known` is the type of a field that the document's own schema does not have.
        """
        nodes = self.value.items if isinstance(self.value, ListValue) else [self.value]
        return [self._decode(node, self.known or known) if isinstance(node, Scalar) else node for node in nodes]

    def _decode(self, scalar: Scalar, known: FieldType | None) -> Any:
        try:
            return scalar.decode(known)
        except scalars.BadValueError as error:
            word = str(scalar).strip("'\"")
            if known is not None and known.enum is not None and _WORD.fullmatch(word):
                return scalars.Enum(word)  # a fork's
            raise self.error(f"field {self.name}: {error}") from None

    def copy(self) -> Field:
        """A detached deep copy; its inner text, comments included, stays as it is."""
        twin = self.copy_into(None)
        if twin.moved_from is None:
            twin.moved_from = self.indent
        return twin


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

    children: list[Field]  # type: ignore[assignment]  # the same list, narrowed: a Message holds Fields only
    owner: Field | None

    # -- reading

    @property
    def fields(self) -> list[Field]:
        """All fields in order (a new list: change the message by its methods)."""
        return list(self.children)

    @property
    def line(self) -> int:
        """The line of the field that holds this message; 1 for a document."""
        return self.owner.line if self.owner is not None else 1

    def __iter__(self) -> Iterator[Field]:
        return iter(list(self.children))

    def has(self, name: str) -> bool:
        """Whether the field occurs (an empty list `[]` is no occurrence)."""
        return any(f.name == name and f.occurs for f in self.children)

    def field(self, name: str) -> Field | None:
        """The last occurrence, or None."""
        return next((f for f in reversed(self.children) if f.name == name), None)

    def all_fields(self, name: str) -> list[Field]:
        """All occurrences in order."""
        return [f for f in self.children if f.name == name]

    def get(self, name: str, default: Any = UNSET) -> Any:
        """The typed value of the last occurrence: str, int, float, bool, an enum's name, or a `Message`.

        When the field is absent: `default` if given, else the schema's default (what Caffe would see); None for
        fields that are repeated, messages, or unknown. Raises `CaffeSplitError` when the text does not fit.
        """
        for f in reversed(self.children):
            if f.name == name and f.occurs:
                return f.values()[-1]
        if default is not UNSET:
            return default
        known = self.type.fields.get(name) if self.type is not None else None
        if known is None or known.repeated:
            return None
        return scalars.Enum(known.default) if known.kind == "enum" else known.default

    def get_all(self, name: str) -> list[Any]:
        """The typed values of all occurrences, short lists opened."""
        return [value for f in self.children if f.name == name for value in f.values()]

    def sub(self, name: str) -> Message | None:
        """The last message of that name, or None."""
        found = self.subs(name)
        return found[-1] if found else None

    def subs(self, name: str) -> list[Message]:
        """All messages of that name."""
        out: list[Message] = []
        for f in self.children:
            if f.name == name:
                if isinstance(f.value, Message):
                    out.append(f.value)
                elif isinstance(f.value, ListValue):
                    out.extend(item for item in f.value.items if isinstance(item, Message))
        return out

    def __repr__(self) -> str:
        name = self.type.name if self.type is not None else "message"
        return f"<{type(self).__name__} {name} of {len(self.children)} fields>"

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
        if self.opener is None:
            old.hold(new.value)
            return
        placing.dress(self, new, "", old.indent, placing.is_inline(old))
        if isinstance(old.value, Scalar) and isinstance(new.value, Scalar):
            was, now = str(old.value), str(new.value)
            if isinstance(value, str) and scalars.is_string(was) and scalars.is_string(now):
                new.value.raw = scalars.quoted(value, was[0])
        if isinstance(old.value, ListValue) and old.value.items:
            if not isinstance(new.value, ListValue):
                old.value.items[-1] = new.value
                old.hold(old.value)
                return
        elif isinstance(new.value, Message) != isinstance(old.value, Message):
            old.sep = new.sep
        old.hold(new.value)
        placing.keep_apart(self, placing.index_of(self, old) + 1)

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
            last = next((f for f in reversed(self.children) if not isinstance(f.value, Message)), None)
            if last is None and self.children:
                self.insert_before(self.children[0], new)
                return new
        if last is not None:
            self.insert_after(last, new)
        else:
            self.append(new)
        return new

    def append(self, new: Field) -> None:
        """Put a detached field at the end."""
        placing.insert(self, len(self.children), new)

    def insert_after(self, field: Field, new: Field) -> None:
        """Put a detached field after `field`; a comment on the line of `field` stays with it."""
        placing.insert(self, placing.index_of(self, field) + 1, new)

    def insert_before(self, field: Field, new: Field) -> None:
        """Put a detached field before `field`, above the comment lines that touch it from above."""
        placing.insert_before(self, field, new)

    def replace(self, field: Field, new: Sequence[Field]) -> None:
        """Put detached fields in the place of `field`; the first stands under the comments above it."""
        for item in new:
            placing.check_detached(item)
        if new:
            placing.replace(self, field, new)
        else:
            self.remove(field)

    def remove(self, field: Field | str, keep_comment: bool = False, keep_blank: bool = True) -> None:
        """Remove that field, or all fields of that name, with the whole lines if nothing else is on them.

        Comment lines above it stay in the file. A comment behind it on its line goes with it; with `keep_comment` it
        stays, on a line of its own. Blank lines above the field stay; with `keep_blank` False they go, so that
        removing what was inserted gives the text before the insertion.
        """
        for f in self.all_fields(field) if isinstance(field, str) else [field]:
            placing.remove(self, f, keep_comment, keep_blank)

    def add_comments(self, field: Field, comments: list[str]) -> None:
        """Put comments, each with its `#`, on lines of their own above `field`."""
        if comments:
            field.lead = layout.add_comments(field.lead or "", comments, self.style(), field.indent)

    def copy_for(self, owner: FieldNode | None) -> Message:
        """A deep copy, with the text as it is, for the field `owner`."""
        return cast("Message", super().copy_for(owner))


def build(name: str, value: Any) -> Field:
    """A detached field; its text is made when it enters a message. See `prototxt.field`."""
    field = Field(name, Scalar(None))
    if isinstance(value, Message):
        twin = value.copy_for(field)
        if value.opener == "" and twin.children:
            placing.put_in_braces(twin)
        field.value = twin
        field.moved_from = value.indent
    elif isinstance(value, Mapping) or _are_pairs(value):
        message = Message(None, field)
        for key, item in value.items() if isinstance(value, Mapping) else _pairs(value):
            is_many = isinstance(item, (list, tuple)) and not _are_pairs(item)
            for single in item if is_many else [item]:
                child = single if isinstance(single, Field) else build(key, single)
                placing.check_detached(child)
                child.parent = message
                message.children.append(child)
        field.value = message
    elif isinstance(value, (list, tuple)):
        field.value = ListValue([Scalar(None, item) for item in value], [])
    else:
        field.value = Scalar(None, value)
    return field


def build_line(name: str, value: Any, beside: Message) -> Field:
    """A detached message on one line, in the style of the file of `beside`."""
    field = build(name, value)
    field.render(beside.style(), "", inline=True)
    return field


def _are_pairs(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, Field) or (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str))
        for item in value
    )


def _pairs(value: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(item.name, item) if isinstance(item, Field) else item for item in value]
