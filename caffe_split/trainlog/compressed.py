"""Compressed logs, recognised by their first bytes: gzip, bzip2, xz, and zstandard where Python can read it."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Iterator
from typing import Any

from caffe_split.errors import CaffeSplitError

# Compressed bytes per step: few, because a step that meets damage gives nothing.
STEP = 256
# Bytes of text that are given at once.
ENOUGH = 1 << 20


def _gzip() -> Any:
    zlib = importlib.import_module("zlib")
    return zlib.decompressobj(zlib.MAX_WBITS | 16)


def _bzip2() -> Any:
    return importlib.import_module("bz2").BZ2Decompressor()


def _xz() -> Any:
    return importlib.import_module("lzma").LZMADecompressor()


def _zstandard() -> Any:
    for name in ("compression.zstd", "backports.zstd", "zstandard"):
        try:
            module = importlib.import_module(name)
        except ImportError:
            continue
        made = module.ZstdDecompressor()
        return made.decompressobj() if name == "zstandard" else made
    raise CaffeSplitError(
        "it is compressed by zstandard, which this Python cannot read; install the package zstandard, or unpack the "
        "file with `zstd -d`"
    )


_FORMATS: dict[bytes, tuple[str, Callable[[], Any]]] = {
    b"\x1f\x8b": ("gzip", _gzip),
    b"BZh": ("bzip2", _bzip2),
    b"\xfd7zXZ\0": ("xz", _xz),
    b"\x28\xb5\x2f\xfd": ("zstandard", _zstandard),
}


def format_of(head: bytes) -> bytes | None:
    """The magic bytes of the format in which a file with these first bytes is compressed; None if it is not."""
    return next((magic for magic in _FORMATS if head.startswith(magic)), None)


def undecided(head: bytes) -> bool:
    """Whether these first bytes of a file are too few to tell whether it is compressed."""
    return any(magic.startswith(head) and magic != head for magic in _FORMATS)


class Unpacker:
    """Text from compressed bytes in any pieces, also of several compressed files one after another."""

    def __init__(self, magic: bytes) -> None:
        self._name, self._make = _FORMATS[magic]
        self._magic = magic
        self._inner = self._make()
        self._waiting = b""  # fewer bytes than the magic, after the end of a compressed file
        self._trouble = ""

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The text of the next bytes. What follows damage, or another kind of data, is left out."""
        parts: list[bytes] = []
        size = 0
        for text in self._steps(data):
            parts.append(text)
            size += len(text)
            if size >= ENOUGH:
                yield b"".join(parts)
                parts, size = [], 0
        if parts:
            yield b"".join(parts)

    def _steps(self, data: bytes) -> Iterator[bytes]:
        for start in range(0, len(data), STEP):
            piece = self._waiting + data[start : start + STEP]
            self._waiting = b""
            while piece and not self._trouble:
                if self._inner.eof:
                    if not piece.startswith(self._magic[: len(piece)]):
                        return  # padding, as tapes and block devices leave it
                    if len(piece) < len(self._magic):
                        self._waiting = piece
                        break
                    self._inner = self._make()
                try:
                    text = self._inner.decompress(piece)
                except Exception as error:  # each library has errors of its own
                    self._trouble = f"its {self._name} data are damaged ({error}); what stands before is read"
                    return
                if text:
                    yield text
                piece = self._inner.unused_data if self._inner.eof else b""

    @property
    def notes(self) -> list[str]:
        """What keeps the rest from being read, if anything does."""
        if self._trouble:
            return [self._trouble]
        if self._inner.eof:
            return []
        return [f"its {self._name} data end too early (cut off, or still being written); what is there is read"]
