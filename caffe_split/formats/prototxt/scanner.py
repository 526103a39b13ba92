"""From text to the tree, in one pass.

Nearly all fields of real files look alike (`name: value` or `name {` with plain gaps), so one regular
expression takes them whole; whatever it does not match goes the long way, which knows every form of the
text format. Every expression is free of nested choices, so the time is linear in the text.
"""

from __future__ import annotations

import gc
import re

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.nodes import ListValue, Scalar
from caffe_split.formats.prototxt.source import Source
from caffe_split.formats.prototxt.tree import Field, Message

# Messages in messages. Caffe's own need five; protobuf's readers stop at 100 for binary.
MAX_DEPTH = 100

_USUAL = re.compile(
    r"([ \t\r\n]*(?:\#[^\n]*\n[ \t\r\n]*)*)([A-Za-z_][A-Za-z0-9_]*)\b([ \t]*:?[ \t]*)"
    r"(?:([{<])"
    r"|((?:[A-Za-z_][A-Za-z0-9_]*|-?(?:0|[1-9][0-9]*)(?:\.[0-9]+)?(?:[eE][-+]?[0-9]+)?)(?=[\s}>;,\#]|\Z)"
    r"|\"[^\"\\\n]*\"|'[^'\\\n]*'))"
)
_GAP = re.compile(r"(?:[ \t\r\n\f\v\ufeff]+|#[^\n]*)*")
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*|\[[ \t]*[A-Za-z_][A-Za-z0-9_.\-/]*[ \t]*\]")
_NUMBER = re.compile(r"(?:0[xX][0-9a-fA-F]+|(?:[0-9]+\.?[0-9]*|\.[0-9]+)(?:[eE][-+]?[0-9]+)?[fF]?)")
_WORD = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_MINUS = re.compile(r"-(?:[ \t\r\n\f\v]+|#[^\n]*)*")
_STRING = re.compile(r'"[^"\\\n]*(?:\\.[^"\\\n]*)*"|' + r"'[^'\\\n]*(?:\\.[^'\\\n]*)*'")
_CLOSERS = {"{": "}", "<": ">"}


class Scanner:
    """Reads one text; `read` fills a document."""

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.source = Source(text, filename)

    def read(self, document: Message) -> None:
        """Read the whole text into `document`, an empty message. Raises `CaffeSplitError` with the place."""
        # A big file makes a million small objects, none of them garbage. Searching them for garbage again and again
        # would cost more than the reading itself, and more per layer the longer the file is.
        collecting = gc.isenabled()
        gc.disable()
        try:
            self._fields(document, 0, "", -1, 0)
        finally:
            if collecting:
                gc.enable()

    def error(self, offset: int, message: str) -> CaffeSplitError:
        """An error that names the place of `offset`."""
        return self.source.error(offset, message)

    def _fields(self, message: Message, position: int, closer: str, opened: int, depth: int) -> int:
        """Read fields into `message` up to `closer` (up to the end if it is ""); returns the offset after it."""
        if depth > MAX_DEPTH:
            raise self.error(opened, f"messages are nested more than {MAX_DEPTH} deep")
        text, source = self.text, self.source
        append = message.children.append
        usual = _USUAL.match
        field: Field | None = None
        while True:
            match = usual(text, position)
            if match is not None:
                lead, name, sep, opener, raw = match.groups()
                if opener is None:
                    if ":" in sep:
                        field = Field(name, Scalar(raw), lead, sep, match.start(2), source)
                        field.parent = message
                        append(field)
                        position = match.end()
                        continue
                else:
                    inner = Message(opener)
                    field = Field(name, inner, lead, sep, match.start(2), source)
                    field.parent = message
                    inner.owner = field
                    append(field)
                    start = match.end()
                    position = self._fields(inner, start, _CLOSERS[opener], start - 1, depth + 1)
                    continue
            gap_match = _GAP.match(text, position)
            assert gap_match is not None
            gap, start = gap_match.group(), gap_match.end()
            char = text[start : start + 1]
            if char == "":
                if closer:
                    raise self._unclosed(opened, closer, message)
                message.tail = gap
                return start
            if char in "}>":
                if char != closer:
                    raise self.error(start, self._stray(char, closer, opened))
                message.tail = gap
                return start + 1
            if char in ",;" and field is not None and not field.trail:
                field.trail = gap + char
                position = start + 1
            elif char in "'\"" and field is not None and not field.trail and _is_text(field):
                position = self._string(start)
                assert isinstance(field.value, Scalar)
                field.value.raw = f"{field.value.raw}{gap}{text[start:position]}"
                position = self._more_strings(field.value, position)
            else:
                field, position = self._field(message, gap, start, depth)
                append(field)

    def _more_strings(self, scalar: Scalar, position: int) -> int:
        """Take in all further pieces of a string at once, so that many pieces cost one join."""
        pieces = [scalar.raw or ""]
        while True:
            match = _GAP.match(self.text, position)
            assert match is not None
            if self.text[match.end() : match.end() + 1] not in ("'", '"'):
                break
            end = self._string(match.end())
            pieces.append(self.text[position:end])
            position = end
        scalar.raw = "".join(pieces)
        return position

    def _field(self, message: Message, lead: str, start: int, depth: int) -> tuple[Field, int]:
        """One field the long way: any gaps, any value."""
        text = self.text
        match = _NAME.match(text, start)
        if match is None:
            raise self.error(start, f"expected the name of a field, found {self._found(start)}")
        name, after = match.group(), match.end()
        value_at = self._skip(after)
        colon = text[value_at : value_at + 1] == ":"
        if colon:
            value_at = self._skip(value_at + 1)
        field = Field(name, Scalar(""), lead, text[after:value_at], start, self.source)
        field.parent = message
        char = text[value_at : value_at + 1]
        if char and char in "{<":
            inner = Message(char, field)
            field.value = inner
            return field, self._fields(inner, value_at + 1, _CLOSERS[char], value_at, depth + 1)
        if char == "[":
            return field, self._list(field, value_at, depth, colon)
        if not colon:
            raise self.error(value_at, f"expected ':' or '{{' after {name!r}, found {self._found(value_at)}")
        end = self._scalar(value_at, name)
        field.value = Scalar(text[value_at:end])
        return field, end

    def _list(self, field: Field, start: int, depth: int, colon: bool) -> int:
        text = self.text
        value = ListValue([], [])
        field.value = value
        position = self._skip(start + 1)
        gap_from = start
        if text[position : position + 1] == "]":
            value.gaps.append(text[start : position + 1])
            return position + 1
        while True:
            value.gaps.append(text[gap_from:position])
            char = text[position : position + 1]
            if char and char in "{<":
                inner = Message(char, field)
                value.items.append(inner)
                position = self._fields(inner, position + 1, _CLOSERS[char], position, depth + 1)
            elif not colon:
                raise self.error(start, f"expected ':' before the list of {field.name!r}")
            else:
                end = self._scalar(position, field.name)
                scalar = Scalar(text[position:end])
                if char in ("'", '"'):
                    end = self._more_strings(scalar, end)
                value.items.append(scalar)
                position = end
            gap_from = position
            position = self._skip(position)
            char = text[position : position + 1]
            if char == "]":
                value.gaps.append(text[gap_from : position + 1])
                return position + 1
            if char != ",":
                raise self.error(position, f"expected ',' or ']' in a list, found {self._found(position)}")
            position = self._skip(position + 1)

    def _scalar(self, start: int, name: str) -> int:
        text = self.text
        char = text[start : start + 1]
        if char and char in "'\"":
            return self._string(start)
        word_at = start
        if char == "-":
            minus = _MINUS.match(text, start)
            assert minus is not None
            word_at = minus.end()
        match = _NUMBER.match(text, word_at) or _WORD.match(text, word_at)
        if match is None:
            raise self.error(start, f"expected a value for {name!r}, found {self._found(start)}")
        if word_at != start and match.re is _WORD and match.group().lower() not in ("inf", "infinity", "nan"):
            raise self.error(start, f"expected a number after '-', found {self._found(word_at)}")
        end = match.end()
        if match.re is _NUMBER and _WORD.match(text, end):
            raise self.error(end, f"a space is needed between {match.group()} and {self._found(end)}")
        return end

    def _string(self, start: int) -> int:
        match = _STRING.match(self.text, start)
        if match is None:
            raise self.error(start, "the string that begins here is not closed on its line")
        return match.end()

    def _skip(self, position: int) -> int:
        match = _GAP.match(self.text, position)
        assert match is not None
        return match.end()

    def _found(self, position: int) -> str:
        if position >= len(self.text):
            return "the end of the file"
        match = _WORD.match(self.text, position)
        return repr(match.group()[:40] if match else self.text[position])

    def _unclosed(self, opened: int, closer: str, message: Message) -> CaffeSplitError:
        """A missing brace: the innermost open message rarely lacks it, so name the place where that shows."""
        line, column = self.source.place(opened)
        inner = message.owner.name if message.owner is not None else "message"
        hint = ""
        for field in message.children:
            # `layer` in a `layer`: no message of Caffe's holds one of its own name.
            if field.name == inner:
                hint = f"; the {field.name} at line {field.line} stands inside it: look for the brace above it"
                break
        return self.error(
            len(self.text),
            f"the file ends, but {inner!r} opened at {line}:{column} has no {closer!r}{hint}",
        )

    def _stray(self, char: str, closer: str, opened: int) -> str:
        if not closer:
            return f"{char!r} closes nothing: a brace too many here, or one too few above"
        line, column = self.source.place(opened)
        return f"found {char!r}, but {line}:{column} was opened to be closed by {closer!r}"


def _is_text(field: Field) -> bool:
    return isinstance(field.value, Scalar) and (field.value.raw or "")[:1] in ("'", '"')
