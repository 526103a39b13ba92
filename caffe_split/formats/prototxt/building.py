"""New text: fields built from Python values, and copies moved to another depth, in the style of a file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import layout, nodes, scalars
from caffe_split.formats.prototxt.nodes import Field, ListValue, MessageNode, Node, Scalar, copy_value, indent_of
from caffe_split.formats.prototxt.schema import FieldType

if TYPE_CHECKING:
    from caffe_split.formats.prototxt.tree import Message


def build(name: str, value: Any) -> Field:
    """A detached field; its text is made when it enters a message. See `prototxt.field`."""
    from caffe_split.formats.prototxt.tree import Message

    field = Field(name, Scalar(None))
    if isinstance(value, Message):
        twin = copy_value(value, field)
        field.value = twin
        field._indent = indent_of(value._field)
        if value._open == "" and isinstance(twin, Message) and twin._fields:
            # A whole file: from now on it stands inside braces, one step further in.
            first = twin._fields[0]
            first._lead = "\n" + (first._lead or "").lstrip("\ufeff\r\n")
            twin._tail = twin._tail if twin._tail.endswith("\n") else twin._tail + "\n"
            _shift(twin, "", layout.Style().indent)
            twin._tail = twin._tail[: twin._tail.rfind("\n") + 1]
    elif isinstance(value, Mapping) or _are_pairs(value):
        message = Message(None, field)
        for key, item in value.items() if isinstance(value, Mapping) else _pairs(value):
            many = isinstance(item, (list, tuple)) and not _are_pairs(item)
            for single in item if many else [item]:
                child = single if isinstance(single, Field) else build(key, single)
                check_detached(child)
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
            if isinstance(node, MessageNode):
                node._type = nodes.UNRESOLVED
                forget_types(node)


def _are_pairs(value: object) -> bool:
    return isinstance(value, (list, tuple)) and all(
        isinstance(item, Field) or (isinstance(item, tuple) and len(item) == 2 and isinstance(item[0], str))
        for item in value
    )


def _pairs(value: Sequence[Any]) -> list[tuple[str, Any]]:
    return [(item.name, item) if isinstance(item, Field) else item for item in value]


def fill(field: Field, style: layout.Style, indent: str, inline: bool) -> None:
    """Make the text of a field that has none, and move that of a copy to `indent`."""
    if field._indent is not None and field._indent != indent:
        _shift(field.value, field._indent, indent)
    render(field, indent, style, inline)


def render(field: Field, indent: str, style: layout.Style, inline: bool) -> None:
    """Give text to whatever in `field` has none; values are checked against the schema where it can."""
    if field._lead is None:
        field._lead = ""
    if field._sep is None:
        field._sep = style.brace if isinstance(field.value, MessageNode) else style.colon
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
            render_message(field.value, indent, style, inline)
    except scalars.BadValue as error:
        raise CaffeSplitError(f"cannot write field {field.name}: {error}") from None


def _render_scalar(scalar: Scalar, known: FieldType | None, style: layout.Style) -> None:
    if scalar.raw is None:
        scalar.raw = scalars.encode(scalar._python, known, style.quote)


def render_message(message: Message, indent: str, style: layout.Style, inline: bool) -> None:
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
            fill(f, style, inner, inline)
        else:
            render(f, inner, style, inline)
        f._indent = None
        f._lead = " " if inline else style.newline + inner


def _shift(value: Node, old: str, new: str) -> None:
    if isinstance(value, MessageNode):
        for f in value._fields:
            f._lead = layout.reindent(f._lead or "", old, new)
            _shift(f.value, old, new)
        value._tail = layout.reindent(value._tail, old, new)
    elif isinstance(value, ListValue):
        value._gaps = [layout.reindent(gap, old, new) for gap in value._gaps]
        for item in value.items:
            _shift(item, old, new)


def outdent(document: Message) -> None:
    """The fields of a message that now are a file: its first begins the file, and each line loses their indent."""
    first = document._fields[0]
    indent = layout.line_indent(first._lead or "") if "\n" in (first._lead or "") else ""
    _shift(document, indent, "")
    head, rest = layout.split_line(first._lead or "")
    first._lead = (head.strip() + rest).lstrip("\r\n") if head.strip() else rest.lstrip("\r\n")
    document._tail = document._tail.rstrip(" \t")
    if not document._tail.endswith("\n"):
        document._tail = document._tail.rstrip() + document._style().newline


def sample_style(message: Message, limit: int = 2000) -> layout.Style:
    """The style of the first fields of a message, nested ones included."""
    samples: list[layout.Sample] = []

    def visit(message: Message, outer: str) -> None:
        for f in message._fields:
            if len(samples) >= limit:
                return
            lead = f._lead or ""
            is_message = isinstance(f.value, MessageNode)
            raw = f.value.raw or "" if isinstance(f.value, Scalar) else ""
            if f._sep is not None and not isinstance(f.value, ListValue):
                samples.append(layout.Sample(lead, f._sep, is_message, raw, outer))
            if isinstance(f.value, MessageNode):
                visit(f.value, layout.line_indent(lead) if "\n" in lead else outer)

    visit(message, "")
    return layout.style_of(samples)


def is_inline(field: Field) -> bool:
    """Whether new text in the place of `field` should stay on one line."""
    if isinstance(field.value, MessageNode):
        return "\n" not in str(field.value)
    return "\n" not in (field._lead or "") and field._parent is not None and field._parent._field is not None


def check_detached(field: Field) -> None:
    if field._parent is not None:
        raise ValueError(f"{field!r} stands in a message already: insert field.copy()")


def adopt(field: Field) -> None:
    """Let the messages in a field's value know the field."""
    nodes = field.value.items if isinstance(field.value, ListValue) else [field.value]
    for node in nodes:
        if isinstance(node, MessageNode):
            node._field = field
