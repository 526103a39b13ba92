"""What a file is, by its first bytes: for files that are given in the place of others."""

from __future__ import annotations

import os
import re
from typing import Literal, NamedTuple

from caffe_split.files import PathLike, stream_kind
from caffe_split.formats.prototxt import wrong_kind
from caffe_split.formats.prototxt.document import NET_ONLY, SOLVER_ONLY

Kind = Literal[
    "net", "solver", "weights", "state", "schema", "log", "array", "picture", "packed", "folder", "stream", "strange"
]

# Enough for the comments at the head of a net.
HEAD = 1 << 16
_COMMENT = re.compile(rb"#[^\n]*")
_TOKEN = re.compile(rb"\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|[{}<>]|[A-Za-z_]\w*(?=\s*[:{<])")
_SCHEMA = re.compile(rb"^\s*(?:syntax\s*=|package\s+[\w.]+\s*;|message\s+\w+\s*\{)", re.M)
# What follows the name of a layer. A study names layers, too, as a list of words.
_MESSAGE = re.compile(rb"\s*:?\s*\[?\s*[{<]")
# How the words of `wrong_kind` begin.
_KINDS: dict[str, Kind] = {
    "weights": "weights",
    "a solver state": "state",
    "a training log": "log",
    "a picture": "picture",
    "compressed": "packed",
    "text in UTF-16": "packed",
}


class FileKind(NamedTuple):
    """What a file is: its kind, and the same in words. `packed` is text in another form, which may hold a log."""

    kind: Kind
    words: str

    @property
    def sentence(self) -> str:
        """`this is a net`, `these are weights (a caffemodel)`."""
        return wrong_kind.sentence(self.words)


def kind_of(path: PathLike) -> FileKind | None:
    """What lies at `path`, where its first bytes leave no doubt; None where they do, or nothing can be read there."""
    try:
        if os.path.isdir(path):
            return FileKind("folder", "a folder")
        stream_words = stream_kind(path)
        if stream_words:
            # Not read: what comes after would find nothing more in it.
            return FileKind("stream", f"{stream_words}, which can be read only once")
        with open(path, "rb") as stream:
            head = stream.read(HEAD)
    except (OSError, ValueError):
        return None
    if head.startswith(b"\x93NUMPY"):
        return FileKind("array", "an array that NumPy wrote")
    # The header of a zip archive's first file has the length of its name at 26 and the name at 30.
    if head.startswith(b"PK\x03\x04") and head[30 : 30 + int.from_bytes(head[26:28], "little")].endswith(b".npy"):
        return FileKind("array", "an archive of arrays that NumPy wrote")
    words = wrong_kind.surely(head[: wrong_kind.HEAD_SIZE], path)
    if words is not None and words.startswith("HDF5"):
        return _hdf5(path)
    # A log shows its solver and its net, so that it is looked for first; not in the comments of a net.
    text = _COMMENT.sub(b"", head)
    guess = wrong_kind.maybe(text[: wrong_kind.HEAD_SIZE])
    found = words or (guess if guess == "a training log" else _text(text) or guess)
    if found is None or isinstance(found, FileKind):
        return found
    return FileKind(next((kind for begin, kind in _KINDS.items() if found.startswith(begin)), "strange"), found)


def _hdf5(path: PathLike) -> FileKind | None:
    """By its name: both kinds that Caffe writes look alike."""
    name = os.path.basename(os.fspath(path))
    if ".solverstate" in name:
        return FileKind("state", "a solver state")
    return FileKind("weights", "weights (HDF5)") if ".caffemodel" in name else None


def _text(text: bytes) -> FileKind | None:
    """A net or a solver by the first field that only one of them has, or a schema."""
    if _SCHEMA.search(text):
        return FileKind("schema", "a schema (.proto)")
    depth = 0
    for match in _TOKEN.finditer(text):
        token = match.group()
        depth += (token in (b"{", b"<")) - (token in (b"}", b">"))
        name = token.decode("ascii", "replace")
        if name in ("layer", "layers") and not _MESSAGE.match(text, match.end()):
            continue
        if depth == 0 and name in NET_ONLY:
            return FileKind("net", "a net")
        if depth == 0 and name in SOLVER_ONLY:
            return FileKind("solver", "a solver")
    return None
