"""The text of a log: unpacked, as UTF-8, without the colours of a terminal, and of one rank."""

from __future__ import annotations

import codecs
import re
from collections.abc import Iterator
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, open_again, stream_kind
from caffe_split.trainlog import compressed
from caffe_split.trainlog.lines import LineSplitter
from caffe_split.trainlog.ranks import RankFilter, tagged

# Bytes per read.
BLOCK = 1 << 21
# This many first bytes show how a file is encoded.
_ENOUGH = 64
_MARKS = {codecs.BOM_UTF8: "utf-8", codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}
_ESCAPE = 27
# Sequences with which programs colour their text (CSI) or name the terminal's window (OSC), and shorter ones.
_SEQUENCE = re.compile(
    rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[()*+#% ][0-9A-Za-z@]|[@-OQ-WYZ\\=>78c])"
)
# An incomplete sequence at the end of a block is not longer than this.
_LONGEST_SEQUENCE = 512


class Text:
    """The text of a file that is fed in blocks.

    rank: see `RankFilter`; `several` says that lines have ranks. plain: the text is the bytes of a file, so that
    offsets in the text are offsets in the file; what `blocks` reads of a pipe is not.
    """

    def __init__(self, several: bool = False, rank: int | None = None) -> None:
        self.plain = not several
        self.ranks = RankFilter(rank) if several else None
        self._started = False
        self._first = b""  # what has been fed, until the encoding is known
        self._unpacker: compressed.Unpacker | None = None
        self._known = False  # whether the encoding is
        self._decoder: codecs.IncrementalDecoder | None = None
        self._escape = b""  # an incomplete sequence
        self._splitter = LineSplitter()

    def feed(self, block: bytes) -> Iterator[bytes]:
        """The text that the block adds."""
        if not self._started:
            block, self._first = self._first + block, b""
            if compressed.undecided(block):
                self._first = block
                return
            self._start(block)
        if self._unpacker is None:
            yield from self._unpacked(block)
            return
        for piece in self._unpacker.feed(block):
            yield from self._unpacked(piece)

    def finish(self) -> Iterator[bytes]:
        """The file ends here: the text that was held back."""
        self._started = True
        yield from self._unpacked(b"", last=True)

    @property
    def notes(self) -> list[str]:
        """What to say of the file besides its text."""
        unpacked = self._unpacker.notes if self._unpacker is not None else []
        return unpacked + (self.ranks.notes if self.ranks is not None else [])

    def _start(self, block: bytes) -> None:
        self._started = True
        magic = compressed.format_of(block)
        if magic is not None:
            self._unpacker = compressed.Unpacker(magic)
            self.plain = False

    def _unpacked(self, data: bytes, last: bool = False) -> Iterator[bytes]:
        """Text from the unpacked bytes."""
        if not self._known:
            data, self._first = self._first + data, b""
            # Zero bytes near the start: this may be UTF-16 without a mark.
            if not last and (len(data) < 4 or (0 in data[:4] and len(data) < _ENOUGH)):
                self._first = data
                return
            self._known = True
            data = self._find_encoding(data)
        if self._decoder is not None:
            decoded: str = self._decoder.decode(data, last)
            data = decoded.replace("\ufeff", "").encode("utf-8", "backslashreplace")
        if self._escape or _ESCAPE in data:
            data = self._without_sequences(data, last)
        if self.ranks is not None:
            whole = self._splitter.feed(data)
            data = self.ranks.lines(whole) if whole else b""
            if last:
                data += self.ranks.lines(self._splitter.rest())
        if data:
            yield data

    def _find_encoding(self, data: bytes) -> bytes:
        """Set the decoder by the mark at the start, or by where the zero bytes are; returns what is left."""
        mark = next((mark for mark in _MARKS if data.startswith(mark)), b"")
        encoding = _MARKS.get(mark, "")
        if not mark and len(data) >= 4:
            pairs = data[: _ENOUGH // 2 * 2 if len(data) >= _ENOUGH else len(data) // 2 * 2]
            low, high = pairs[::2], pairs[1::2]
            if not any(high) and all(low):
                encoding = "utf-16-le"
            elif not any(low) and all(high):
                encoding = "utf-16-be"
        if encoding:
            self.plain = False
        if encoding.startswith("utf-16"):
            self._decoder = codecs.getincrementaldecoder(encoding)("backslashreplace")
        return data[len(mark) :]

    def _without_sequences(self, data: bytes, last: bool) -> bytes:
        self.plain = False
        data, self._escape = self._escape + data, b""
        data = _SEQUENCE.sub(b"", data)
        start = -1 if last else data.rfind(b"\x1b", max(len(data) - _LONGEST_SEQUENCE, 0))
        if start >= 0 and b"\n" not in data[start:]:
            data, self._escape = data[:start], data[start:]
        return data


def open_log(path: PathLike) -> tuple[Path, float]:
    """Check that `path` is a readable file; returns it with its time of change (seconds since 1970).

    Raises `CaffeSplitError` if it is not.
    """
    log = Path(path)
    try:
        state = log.stat()
        if log.is_dir():
            raise CaffeSplitError(f"{log} is a folder; expected a training log, e.g. {log / 'train.log'}")
        with open_again(log):
            pass
    except OSError as error:
        raise CaffeSplitError(f"cannot read the log {log}: {error.strerror}") from error
    return log, state.st_mtime


def blocks(path: PathLike, text: Text, size: int = BLOCK) -> Iterator[bytes]:
    """The text of a whole file, read `size` bytes at a time.

    Raises `CaffeSplitError` if it is compressed in a way that cannot be read here.
    """
    text.plain = text.plain and not stream_kind(path)
    with open_again(path) as stream:
        try:
            while block := stream.read(size):
                yield from text.feed(block)
        except CaffeSplitError as error:
            raise CaffeSplitError(f"cannot read the log {path}: {error}") from None
    yield from text.finish()


def head(path: PathLike, size: int) -> bytes:
    """About the first `size` bytes of the text of a log, without ranks before the lines."""
    with open_again(path) as stream:
        data = stream.read(size)
    text = Text()
    found = b"".join([*text.feed(data), *text.finish()])
    return RankFilter(None).lines(found) if tagged(found) else found
