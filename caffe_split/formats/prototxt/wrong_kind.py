"""Files that are given as a net or solver and are none: what they are, so that the error can say it."""

from __future__ import annotations

import contextlib
import os
import re

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike

HEAD_SIZE = 4096

_MAGIC = {
    b"\xff\xfe": "text in UTF-16, which Caffe does not read; save it as UTF-8",
    b"\xfe\xff": "text in UTF-16, which Caffe does not read; save it as UTF-8",
    b"\x1f\x8b": "compressed (gzip); unpack it first",
    b"BZh": "compressed (bzip2); unpack it first",
    b"\xfd7zXZ\0": "compressed (xz); unpack it first",
    b"\x28\xb5\x2f\xfd": "compressed (zstandard); unpack it first",
    b"PK\x03\x04": "a zip archive; unpack it first",
    b"7z\xbc\xaf": "a 7z archive; unpack it first",
    b"\x89PNG": "a picture (PNG)",
    b"\xff\xd8\xff": "a picture (JPEG)",
    b"GIF8": "a picture (GIF)",
    b"II*\0": "a picture (TIFF)",
    b"MM\0*": "a picture (TIFF)",
    b"%PDF": "a PDF",
    b"\x89HDF\r\n\x1a\n": "HDF5: weights or a solver state",
    b"version https://git-lfs": "a git-lfs pointer, not the file itself; fetch it with `git lfs pull`",
}
_PICTURES = re.compile(rb"RIFF....WEBP|BM....\0\0\0\0|P[1-6]\s+\d+\s+\d+\s", re.DOTALL)
_LOG = re.compile(rb"(?:Log file created at:|[IWEF]\d{4}(?:\d{4})? \d\d:\d\d:\d\d)", re.MULTILINE)
_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<head", b"<!--")
_PROGRAM = re.compile(rb"(?:#!|import |from \w+ import |def |function |clear ?all)")


def surely(head: bytes, path: PathLike) -> str | None:
    """What a file that begins with `head` is where it is no text that Caffe could read; None for such a text."""
    for magic, words in _MAGIC.items():
        if head.startswith(magic):
            return words
    if _PICTURES.match(head):
        return "a picture"
    if head[257:262] == b"ustar":
        return "a tar archive; unpack it first"
    zeros = [head[start:256:2].count(0) for start in (0, 1)]
    if max(zeros) > 3 and min(zeros) == 0 and len(head) <= 3 * max(zeros) + 256:
        return _MAGIC[b"\xff\xfe"]
    if b"\0" in head or re.search(rb"[\x01-\x08\x0e-\x1a]", head):
        return _binary(path)
    return None


def maybe(head: bytes) -> str | None:
    """What a text that begins with `head`, and that is no prototxt, looks like; None where it looks like nothing."""
    text = head.lstrip(b"\xef\xbb\xbf \t\r\n")
    if text.lower().startswith(_PAGE):
        return "a web page; the download went wrong, get the file itself"
    if _LOG.search(text):
        return "a training log"
    if text.startswith((b"{", b"[")):
        return "JSON"
    return "a program" if _PROGRAM.match(text) else None


def _binary(path: PathLike) -> str:
    from caffe_split.formats.weights.binary import begins_as_weights
    from caffe_split.formats.weights.caffemodel import read_solverstate, read_weights
    from caffe_split.formats.weights.mapped import map_file
    from caffe_split.formats.weights.solverstate import begins_as_state

    try:
        if len(read_weights(path)):
            return "weights (a caffemodel)"
    except (CaffeSplitError, OSError):
        pass
    try:
        if read_solverstate(path).learned_net:
            return "a solver state"
    except (CaffeSplitError, OSError):
        pass
    with contextlib.suppress(CaffeSplitError, OSError):
        buffer = map_file(os.fspath(path))
        if begins_as_weights(buffer):
            return "weights (a caffemodel) that are cut short"
        if begins_as_state(buffer):
            return "a solver state that is cut short"
    return "a binary file"


def sentence(what: str) -> str:
    """`this is a training log`, `these are weights (a caffemodel)`."""
    return f"these are {what}" if what.startswith("weights") else f"this is {what}"


def refusal(path: PathLike, what: str) -> CaffeSplitError:
    """The error that names what `path` is."""
    return CaffeSplitError(f"{os.fspath(path)}: {sentence(what)}; expected a net or a solver (prototxt)")
