r"""Nets and solvers as text, without loss: parse, read by name and type, edit in place, write.

>>> doc = parse('name: "tiny" # a net\nlayer {\n  name: "c"\n  type: "Convolution"\n}\n')
>>> doc.kind, doc.get("name"), [layer.get("type") for layer in doc.subs("layer")]
('net', 'tiny', ['Convolution'])
>>> doc.set("name", "small")
>>> print(doc, end="")
name: "small" # a net
layer {
  name: "c"
  type: "Convolution"
}
"""

from __future__ import annotations

import os
from dataclasses import replace
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, reason, write_atomic
from caffe_split.formats.prototxt import layout, placing, proto2, wrong_kind
from caffe_split.formats.prototxt.nodes import FieldNode, ListValue, Scalar
from caffe_split.formats.prototxt.scalars import Enum
from caffe_split.formats.prototxt.scanner import Scanner
from caffe_split.formats.prototxt.schema import Schema
from caffe_split.formats.prototxt.tree import UNSET, Field, Message, build

__all__ = [
    "UNSET",
    "Document",
    "Enum",
    "Field",
    "ListValue",
    "Message",
    "Scalar",
    "field",
    "parse",
    "read",
    "write",
]

_ROOTS = {"net": "NetParameter", "solver": "SolverParameter"}
# Fields that only one of the two has (`name`, `debug_info` and others are in both).
NET_ONLY = {"layer", "layers", "input", "input_dim", "input_shape"}
SOLVER_ONLY = {
    "net",
    "train_net",
    "test_net",
    "net_param",
    "train_net_param",
    "test_net_param",
    "base_lr",
    "lr_policy",
    "max_iter",
    "test_iter",
    "test_interval",
    "solver_mode",
    "solver_type",
    "snapshot",
    "snapshot_prefix",
    "momentum",
    "weight_decay",
    "display",
    "stepsize",
    "random_seed",
    "gamma",
}


class Document(Message):
    """A whole file: a `Message` that knows its `kind` ("net", "solver" or None), `filename` and `schema`.

    `str()` gives the text and `to_bytes()` the bytes it was read from, with the edits.
    """

    __slots__ = ("_newline", "_style", "filename", "kind", "schema")

    def __init__(self, filename: str, schema: Schema, newline: str = "\n") -> None:
        super().__init__("")
        self.filename = filename
        self.schema = schema
        self.kind: str | None = None
        self.type = None
        self._newline = newline
        self._style: layout.Style | None = None

    def copy(self) -> Document:
        """A deep copy; its fields keep the places they were read from."""
        return self._with_fields_of(self, self.kind)

    def inner(self, message: Message) -> Document:
        """A net that stands within this document (a solver's `net_param`), as a document of its own.

        Its lines keep their comments and lose the indent of the message; the fields keep the places they were
        read from.
        """
        twin = self._with_fields_of(message, "net")
        if twin.children:
            placing.take_out_of_braces(twin)
        return twin

    def _with_fields_of(self, message: Message, kind: str | None) -> Document:
        twin = Document(self.filename, self.schema, self._newline)
        source = message.copy_for(None)
        twin.kind, twin.type = kind, source.type
        twin.children, twin.tail = source.children, source.tail
        for f in twin.children:
            f.parent = twin
        return twin

    def to_bytes(self) -> bytes:
        """The file's bytes."""
        return str(self).encode("utf-8", "surrogateescape")

    def blank(self, owner: FieldNode | None) -> Message:
        """An empty message in braces."""
        return Message("{", owner)

    def own_style(self) -> layout.Style:
        """How the file was written before the first edit: one edit must not change what the next one looks like."""
        if self._style is None:
            self._style = replace(super().own_style(), newline=self._newline)
        return self._style


def parse(
    text: str | bytes,
    kind: str | None = None,
    filename: str = "<string>",
    schema: Schema | None = None,
) -> Document:
    r"""Read a prototxt from its text or bytes.

    `kind` is "net", "solver", the name of any message of the schema ("BlobProto"), or None: then the
    content decides, and a text that looks like neither stays untyped (`doc.kind` is None). `schema` is a
    fork's own (`proto2.load`); by default that of BVLC's Caffe. Unknown fields are kept; `str(doc)` is the text again.

    Raises `CaffeSplitError` with line and column when the text is not in protobuf's text format.

    >>> doc = parse("base_lr: 1e-2 # try more\nsolver_mode: CPU\n")
    >>> doc.kind, doc.get("base_lr"), doc.get("solver_mode"), doc.get("momentum2")
    ('solver', 0.01, 'CPU', 0.999)
    >>> str(doc)
    'base_lr: 1e-2 # try more\nsolver_mode: CPU\n'
    """
    if isinstance(text, bytes):
        text = text.decode("utf-8", "surrogateescape")
    else:
        try:
            text.encode("utf-8", "surrogateescape")
        except UnicodeEncodeError as error:
            raise CaffeSplitError(f"{filename}: the text holds a lone surrogate at {error.start}") from None
    document = Document(filename, schema if schema is not None else proto2.caffe(), layout.newline_of(text))
    Scanner(text, filename).read(document)
    document.kind = kind if kind is not None else _kind_of(document)
    if document.kind is not None:
        name = _ROOTS.get(document.kind, document.kind)
        document.type = document.schema.messages.get(name)
        if document.type is None:
            raise ValueError(f"no message {name} in the schema")
    return document


def read(path: PathLike, kind: str | None = None, schema: Schema | None = None) -> Document:
    """Read a prototxt file; see `parse`. Raises `CaffeSplitError` when it cannot be read."""
    name = os.fspath(path)
    try:
        with open(path, "rb") as stream:
            head = stream.read(wrong_kind.HEAD_SIZE)
            what = wrong_kind.surely(head, path)
            if what is not None:
                raise wrong_kind.refusal(path, what)
            data = head + stream.read()
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{name}: cannot read it: {reason(error)}") from None
    try:
        return parse(data, kind, name, schema)
    except CaffeSplitError:
        what = wrong_kind.maybe(head)
        if what is None:
            raise
        raise wrong_kind.refusal(path, what) from None


def write(document: Document, path: PathLike, force: bool = True) -> None:
    """Write the document's bytes to `path`, whole or not at all; without `force` never over another file."""
    write_atomic(path, document.to_bytes(), force)


def field(name: str, value: Any) -> Field:
    """Build a detached field, to be inserted in a message.

    `value` is a str, int, float, bool or `Enum`; for a message a dict, or a list of (name, value) pairs and
    detached fields; in a dict, a list of values gives one occurrence each. The text is made on insertion, in
    the style of the file; a str for a field that the schema knows as an enum is then written bare.

    >>> print(field("layer", {"bottom": ["a", "b"], "eltwise_param": {"operation": Enum("SUM")}}))
    layer {
      bottom: "a"
      bottom: "b"
      eltwise_param {
        operation: SUM
      }
    }
    """
    return build(name, value)


def _kind_of(document: Document) -> str | None:
    """Net or solver, by the fields that only one of the two has; on a tie, net."""
    names = {f.name for f in document.children}
    nets, solvers = len(names & NET_ONLY), len(names & SOLVER_ONLY)
    if nets >= solvers and nets:
        return "net"
    if solvers:
        return "solver"
    if not names:
        return None
    for kind, root in _ROOTS.items():
        if names <= document.schema.messages[root].fields.keys():
            return kind
    return None
