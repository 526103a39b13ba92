"""Where a field goes in a message, and what becomes of the gaps around it.

A gap is the whitespace and the comments between two fields: the lead of the second one, or the message's tail. Only
the lines of the fields concerned change. A message that is not yet written has no gaps to keep.
"""

from __future__ import annotations

from collections.abc import Sequence

from caffe_split.formats.prototxt import layout, scalars
from caffe_split.formats.prototxt.nodes import FieldNode, MessageNode, Scalar


def index_of(message: MessageNode, field: FieldNode) -> int:
    """The index of a field among the message's children; ValueError when it is not one of them."""
    for index, child in enumerate(message.children):
        if child is field:
            return index
    raise ValueError(f"{field!r} is not in this message")


def check_detached(field: FieldNode) -> None:
    """Raise ValueError for a field that stands in a message."""
    if field.parent is not None:
        raise ValueError(f"{field!r} stands in a message already: insert field.copy()")


def is_inline(field: FieldNode) -> bool:
    """Whether new text in the place of `field` should stay on one line."""
    if isinstance(field.value, MessageNode):
        return "\n" not in str(field.value)
    return "\n" not in (field.lead or "") and field.parent is not None and field.parent.owner is not None


# -- fields come


def insert(message: MessageNode, index: int, new: FieldNode) -> None:
    """Put the detached field `new` at `index`, on the side of the field before it: its comment stays with it."""
    check_detached(new)
    if message.opener is None:
        _put(message, index, new, None)
        return
    style = message.style()
    children = message.children
    gap = _gap(message, index)
    head, rest = layout.split_line(gap)
    document = message.owner is None
    last = index == len(children)
    on_lines = any("\n" in (child.lead or "") for child in children)
    if index == 0 and document:
        # An empty file, or one of comments only: the field comes after them.
        lead = gap if not gap.strip("\ufeff") or gap.endswith("\n") else gap + style.newline
        _put(message, index, new, lead)
        message.tail = style.newline
        return
    if not rest and last and not document:
        # The brace stands behind the last field, and still does when the new one goes again.
        lead = style.newline + _child_indent(message, index, style) if on_lines else gap if gap or not children else " "
        _put(message, index, new, lead)
        return
    if not rest and not last:
        _put(message, index, new, gap)
        keep_apart(message, index)
        _set_gap(message, index + 1, gap)
        keep_apart(message, index + 1)
        return
    blank_line = style.newline if index > 0 and _is_parted(message, children[index - 1], new) else ""
    _put(message, index, new, head + style.newline + blank_line + _child_indent(message, index, style))
    _set_gap(message, index + 1, rest)


def insert_before(message: MessageNode, field: FieldNode, new: FieldNode) -> None:
    """Put the detached field `new` before `field`, above the comment lines that touch `field` from above."""
    index = index_of(message, field)
    check_detached(new)
    if message.opener is None:
        _put(message, index, new, None)
        return
    lead = field.lead or ""
    if not layout.begins_line(lead, message.owner is None and index == 0):
        _put(message, index, new, lead)
        field.lead = " "
        return
    above, own = layout.split_own_comments(lead)
    newline = message.style().newline
    bom = "\ufeff" if own.startswith("\ufeff") else ""
    indent = layout.line_indent(lead)
    if own.startswith(("\n", "\r\n")):
        _put(message, index, new, above + newline + indent)
        field.lead = own
    else:  # the first line of the file
        _put(message, index, new, bom + indent)
        field.lead = newline + own[len(bom) :]


def replace(message: MessageNode, field: FieldNode, new: Sequence[FieldNode]) -> None:
    """Put detached fields, one at least, in the place of `field`; the first gets the comments above it."""
    index = index_of(message, field)
    lead, indent = field.lead, field.indent
    if message.opener is not None:
        for item in new:  # all of them first: a value that does not fit must leave the document alone
            dress(message, item, lead or "", indent, is_inline(field))
            item.moved_from = indent
    field.detach()
    first = new[0]
    message.children[index] = first
    first.parent, first.moved_from = message, None
    keep_apart(message, index + 1)
    for previous, item in zip(new, new[1:]):
        insert(message, index_of(message, previous) + 1, item)


def dress(message: MessageNode, new: FieldNode, lead: str, indent: str, inline: bool) -> None:
    """Give the detached field `new` the text that it will have in `message`, after `lead`.

    Raises `CaffeSplitError` when a value does not fit the schema.
    """
    new.parent = message
    try:
        new.fit(message.style(), indent, inline)
    finally:
        new.parent = None
    new.lead = lead
    new.moved_from = None


# -- fields go


def remove(message: MessageNode, field: FieldNode, keep_comment: bool, keep_blank: bool) -> None:
    """Take `field` out, with its whole lines if nothing else is on them; see `Message.remove`."""
    children = message.children
    index = index_of(message, field)
    if message.opener is not None:
        document = message.owner is None
        last = index + 1 == len(children)
        after = _gap(message, index + 1)
        lead = field.lead or ""
        # A comment on the line of the field before belongs to that field.
        if not keep_blank and not layout.split_line(lead)[1].strip():
            lead = layout.without_blank_lines(lead)
        if last and not document and "\n" not in after and "#" not in lead:
            gap = after  # The brace stands behind the last field, and goes on to do so.
        else:
            gap = layout.cut_field(lead, after, document and index == 0, document and last)
        if keep_comment and "#" not in layout.split_line(gap)[0]:
            gap = layout.add_comments(gap, layout.comment_behind(after), message.style())
        _set_gap(message, index + 1, gap)
    field.detach()
    del children[index]
    keep_apart(message, index)


# -- a whole file becomes a message, and a message a file


def put_in_braces(message: MessageNode) -> None:
    """Make the text of a file that of a message in braces: it begins on a new line, one step further in."""
    first = message.children[0]
    first.lead = "\n" + (first.lead or "").lstrip("\ufeff\r\n")
    message.tail = message.tail if message.tail.endswith("\n") else message.tail + "\n"
    message.shift("", layout.Style().indent)
    message.tail = message.tail[: message.tail.rfind("\n") + 1]


def take_out_of_braces(message: MessageNode) -> None:
    """Make the text of a message that of a file: its first field begins the file, and each line loses its indent."""
    first = message.children[0]
    lead = first.lead or ""
    message.shift(layout.line_indent(lead) if "\n" in lead else "", "")
    head, rest = layout.split_line(first.lead or "")
    first.lead = (head.strip() + rest).lstrip("\r\n") if head.strip() else rest.lstrip("\r\n")
    message.tail = message.tail.rstrip(" \t")
    if not message.tail.endswith("\n"):
        message.tail = message.tail.rstrip() + message.style().newline


# -- gaps


def keep_apart(message: MessageNode, index: int) -> None:
    """Put a space before the field at `index` where it would be read as one word with the field before it."""
    if 0 < index < len(message.children) and message.children[index].lead == "":
        previous = message.children[index - 1]
        if isinstance(previous.value, Scalar) and not previous.trail and not scalars.is_string(str(previous.value)):
            message.children[index].lead = " "


def _gap(message: MessageNode, index: int) -> str:
    return (message.children[index].lead or "") if index < len(message.children) else message.tail


def _set_gap(message: MessageNode, index: int, gap: str) -> None:
    if index < len(message.children):
        message.children[index].lead = gap
    else:
        message.tail = gap


def _is_parted(message: MessageNode, previous: FieldNode, new: FieldNode) -> bool:
    """Whether a blank line belongs between two messages: there is one above the last message of the others."""
    if not isinstance(previous.value, MessageNode) or not isinstance(new.value, MessageNode):
        return False
    later = [child for child in message.children[1:] if isinstance(child.value, MessageNode)]
    return bool(later) and layout.has_blank_line(later[-1].lead or "")


def _child_indent(message: MessageNode, index: int, style: layout.Style) -> str:
    """The indent of a new line at `index`: that of the nearest field that begins a line."""
    children = message.children
    for child in (*reversed(children[:index]), *children[index:]):
        if "\n" in (child.lead or ""):
            return layout.line_indent(child.lead or "")
    if message.owner is None:
        return layout.line_indent(children[0].lead or "") if children else ""
    return message.indent + style.indent


def _put(message: MessageNode, index: int, new: FieldNode, lead: str | None) -> None:
    """Make `new` the child at `index`, its text after `lead`; a `lead` of None leaves the text to the message."""
    if lead is not None:
        inline = "\n" not in lead and message.owner is not None
        at_start = "\n" in lead or message.owner is None
        dress(message, new, lead, layout.line_indent(lead) if at_start else message.indent, inline)
    message.children.insert(index, new)
    new.parent = message
