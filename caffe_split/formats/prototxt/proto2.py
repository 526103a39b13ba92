"""Reading a .proto file into a `Schema`, for forks of Caffe: `--caffe-proto FILE`.

It reads the part of proto2 that Caffe's forks use: messages and enums, nested ones too, with fields, defaults and
packed flags; groups, oneofs, extensions and maps. Services and options are skipped. The user needs no protoc. A test
compares our own caffe.proto, read this way, with the generated module.
"""

from __future__ import annotations

import functools
import os
import re
from pathlib import Path
from typing import NamedTuple

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike
from caffe_split.formats.prototxt.proto2_fields import RawField, link
from caffe_split.formats.prototxt.schema import EnumType, MessageType, Schema
from caffe_split.formats.prototxt.source import Source

_TOKEN = re.compile(
    r"""(?P<gap>(?:\s+|//[^\n]*|/\*.*?\*/)+)
      |(?P<word>[A-Za-z_][\w.]*|\.[A-Za-z_][\w.]*)
      |(?P<number>[-+]?(?:0[xX][0-9a-fA-F]+|(?:\d+\.?\d*|\.\d+)(?:[eE][-+]?\d+)?[fF]?|inf\b|nan\b))
      |(?P<string>"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*')
      |(?P<mark>[{}()\[\]<>=;,:-])""",
    re.VERBOSE | re.DOTALL,
)
_LABELS = ("optional", "repeated", "required")
MAX_DEPTH = 50


class _Token(NamedTuple):
    kind: str
    text: str
    offset: int


def load(path: PathLike) -> Schema:
    """Read the schema of a fork from its caffe.proto.

    Raises `CaffeSplitError` with line and column when the file is no proto2 schema, or has no NetParameter.
    """
    name = os.fspath(path)
    try:
        with open(path, encoding="utf-8", errors="surrogateescape") as stream:
            text = stream.read()
    except OSError as error:
        raise CaffeSplitError(f"{name}: cannot read it: {error.strerror}") from None
    schema = parse(text, name)
    if "NetParameter" not in schema.messages or "SolverParameter" not in schema.messages:
        raise CaffeSplitError(
            f"{name}: no messages NetParameter and SolverParameter in it; give a fork's src/caffe/proto/caffe.proto"
        )
    return schema


@functools.lru_cache(maxsize=1)
def caffe() -> Schema:
    """The schema of BVLC's Caffe at 99bd997, with the TPM layer's options: `caffe.proto` beside this module.

    Read as a fork's is: that takes less than half the time of importing protobuf and the generated module.
    """
    return load(Path(__file__).with_name("caffe.proto"))


@functools.lru_cache(maxsize=1)
def with_forks() -> Schema:
    """`caffe`, with the messages and fields of forks that layer types read: `forks.proto` beside this module."""
    folder = Path(__file__).parent
    names = ("caffe.proto", "forks.proto")
    return parse("".join((folder / name).read_text(encoding="utf-8") for name in names), " and ".join(names))


def parse(text: str, filename: str = "<string>") -> Schema:
    """Read a schema from the text of a .proto file; see `load`.

    >>> schema = parse("message M { optional int32 n = 2 [default = 7]; }")
    >>> schema.messages["M"].fields["n"].default
    7
    """
    return _Reader(text, filename).read()


class _Reader:
    def __init__(self, text: str, filename: str) -> None:
        self.source = Source(text, filename)
        self.tokens = list(self._scan(text))
        self.at = 0
        self.schema = Schema({}, {})
        self.raw: list[RawField] = []

    def _scan(self, text: str) -> list[_Token]:
        tokens = []
        position = 0
        while position < len(text):
            match = _TOKEN.match(text, position)
            if match is None:
                raise self.source.error(position, f"{text[position]!r} has no place in a .proto file")
            if match.lastgroup != "gap":
                tokens.append(_Token(str(match.lastgroup), match.group(), position))
            position = match.end()
        return [*tokens, _Token("end", "the end of the file", len(text))]

    def error(self, expected: str) -> CaffeSplitError:
        token = self.tokens[self.at]
        return self.source.error(token.offset, f"expected {expected}, found {token.text!r}")

    def take(self, kind: str, what: str) -> str:
        token = self.tokens[self.at]
        if token.kind != kind:
            raise self.error(what)
        self.at += 1
        return token.text

    def accept(self, text: str) -> bool:
        if self.tokens[self.at].text == text and self.tokens[self.at].kind in ("mark", "word"):
            self.at += 1
            return True
        return False

    def expect(self, text: str) -> None:
        if not self.accept(text):
            raise self.error(repr(text))

    def read(self) -> Schema:
        while self.tokens[self.at].kind != "end":
            if self.accept("message"):
                self.message("", 0)
            elif self.accept("enum"):
                self.enum("")
            elif self.accept("extend"):
                self.body(self.take("word", "the name of a message").lstrip("."), 0)
            elif self.accept("service"):
                self.pass_over()
            elif not self.accept(";"):
                self.statement(("syntax", "package", "import", "option"))
        for raw in self.raw:
            link(raw, self.schema, self.source)
        return self.schema

    def statement(self, names: tuple[str, ...]) -> None:
        if not any(self.accept(name) for name in names):
            raise self.error("a message, an enum or a statement of proto2")
        self.pass_to(";")

    def pass_to(self, text: str) -> None:
        """Skip all up to the next `text`, and that."""
        while not self.accept(text):
            if self.tokens[self.at].kind == "end":
                raise self.error(repr(text))
            self.at += 1

    def pass_over(self) -> None:
        """Skip to the brace that closes the next one."""
        self.pass_to("{")
        depth = 1
        while depth:
            if self.tokens[self.at].kind == "end":
                raise self.error("'}'")
            depth += {"{": 1, "}": -1}.get(self.tokens[self.at].text, 0)
            self.at += 1

    def message(self, outer: str, depth: int) -> None:
        name = outer + self.take("word", "the name of a message")
        self.schema.messages[name] = MessageType(name)
        self.body(name, depth)

    def body(self, name: str, depth: int) -> None:
        if depth > MAX_DEPTH:
            raise self.error(f"no more than {MAX_DEPTH} messages in one another")
        self.expect("{")
        while not self.accept("}"):
            token = self.tokens[self.at]
            following = self.tokens[self.at + 1].kind if token.kind != "end" else ""
            # A field may be called `message` or `option`, too: a label or a type comes first then.
            if token.text == "message" and following == "word":
                self.at += 1
                self.message(f"{name}.", depth + 1)
            elif token.text == "enum" and following == "word":
                self.at += 1
                self.enum(f"{name}.")
            elif token.text == "oneof" and following == "word":
                self.at += 2
                self.body(name, depth + 1)
            elif token.text == "extend" and following == "word":
                self.at += 1
                self.body(self.take("word", "the name of a message").lstrip("."), depth + 1)
            elif token.text in ("extensions", "reserved", "option"):
                self.statement((token.text,))
            elif not self.accept(";"):
                self.field(name, depth)

    def field(self, owner: str, depth: int) -> None:
        label = next((word for word in _LABELS if self.accept(word)), "optional")
        offset = self.tokens[self.at].offset
        kind = self.take("word", "the type of a field")
        if kind == "map" and self.accept("<"):
            self.pass_to(">")
            kind = "bytes"  # no Caffe file has a map; its text would be read as an untyped message
        name = self.take("word", "the name of a field")
        self.expect("=")
        number = self.number()
        options = self.options() if self.accept("[") else {}
        if kind == "group":
            self.schema.messages[f"{owner}.{name}"] = MessageType(f"{owner}.{name}")
            self.body(f"{owner}.{name}", depth + 1)
        else:
            self.expect(";")
        self.raw.append(
            RawField(
                owner,
                name,
                number,
                name if kind == "group" else kind,
                label,
                options.get("packed") == "true",
                options.get("default"),
                offset,
            )
        )

    def number(self) -> int:
        text = self.take("number", "a number")
        try:
            return int(text, 0)
        except ValueError:
            self.at -= 1
            raise self.error("a whole number") from None

    def options(self) -> dict[str, str]:
        found: dict[str, str] = {}
        while True:
            if self.accept("("):
                key = "(" + self.take("word", "the name of an option")
                self.expect(")")
                if self.tokens[self.at].kind == "word":
                    self.at += 1
            else:
                key = self.take("word", "the name of an option")
            self.expect("=")
            minus = "-" if self.accept("-") else ""
            if self.tokens[self.at].text == "{":
                self.pass_over()
                value = ""
            else:
                value = minus + self.tokens[self.at].text
                if self.tokens[self.at].kind not in ("word", "number", "string"):
                    raise self.error("the value of an option")
                self.at += 1
                while self.tokens[self.at].kind == "string":
                    value += self.tokens[self.at].text
                    self.at += 1
            found[key] = value
            if self.accept("]"):
                return found
            self.expect(",")

    def enum(self, outer: str) -> None:
        name = outer + self.take("word", "the name of an enum")
        numbers: dict[str, int] = {}
        self.expect("{")
        while not self.accept("}"):
            token = self.tokens[self.at]
            if token.text in ("option", "reserved") and self.tokens[self.at + 1].text != "=":
                self.statement((token.text,))
                continue
            if self.accept(";"):
                continue
            value = self.take("word", "the name of an enum value")
            self.expect("=")
            minus = self.accept("-")
            numbers[value] = -self.number() if minus else self.number()
            if self.accept("["):
                self.options()
            self.expect(";")
        if not numbers:
            self.at -= 1
            raise self.error("at least one value in an enum")
        self.schema.enums[name] = EnumType(name, numbers)
