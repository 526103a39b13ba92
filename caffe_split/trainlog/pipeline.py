"""The grep pipelines people use on training logs, line for line.

`best` is `grep Test LOG | grep -i acc | sort -nk 11 | tail -N`, `final` is
`grep -B 3 "Optimization Done" LOG | grep -i acc`, both as in the C locale: `sort` orders by the number at
the start of field 11 (anything else there counts as 0, and an exponent is not read) and breaks ties by the
bytes of the whole line. Lines with NUL bytes or invalid UTF-8 are kept, as by `grep -a`.
"""

from __future__ import annotations

import heapq
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from caffe_split.files import PathLike
from caffe_split.trainlog.lines import LineSplitter
from caffe_split.trainlog.messages import number

BLOCK = 1 << 20
# The lines before an "Optimization Done" are looked for in this many bytes before it.
_NEAR = 1 << 18

# Fields end where blanks begin; the number is a sign, digits and a point, nothing else.
_FIELD_11 = re.compile(rb"[ \t]*[^ \t]+(?:[ \t]+[^ \t]+){9}[ \t]+(-?[0-9]*\.?[0-9]*)")
_VALUE = re.compile(rb" = (-?[0-9][0-9.]*(?:[eE][-+]?\d+)?|-?nan|-?inf)", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A line of a log. offset: of its first byte; text: the bytes, without the line feed."""

    offset: int
    text: bytes


def sort_key(text: bytes) -> tuple[float, bytes]:
    """How `sort -nk 11` orders a line."""
    found = _FIELD_11.match(text)
    digits = found[1].strip(b"-.") if found else b""
    return (float(found[1]) if found and digits else 0.0, text)


def best_lines(path: PathLike, count: int) -> list[Found]:
    """The last `count` lines of the sorted accuracy lines, in that order. Reads the file once, in blocks."""
    kept: list[tuple[float, bytes, int]] = []
    for offset, text in _matching(path, b"Test"):
        if b"acc" in text.lower():
            entry = (*sort_key(text), -offset)
            if len(kept) < count:
                heapq.heappush(kept, entry)
            elif count and entry > kept[0]:
                heapq.heapreplace(kept, entry)
    return [Found(-offset, text) for _, text, offset in sorted(kept)]


def final_lines(path: PathLike, before: int = 3) -> list[Found]:
    """The accuracy lines among the `before` lines that precede each "Optimization Done" (or are it)."""
    result: dict[int, Found] = {}
    with open(path, "rb") as stream:
        for offset, text in _matching(path, b"Optimization Done"):
            earlier = _lines_before(stream, offset, before)
            place = offset - sum(len(found) + 1 for found in earlier)
            for found in (*earlier, text):
                if b"acc" in found.lower():
                    result[place] = Found(place, found)
                place += len(found) + 1
    return [result[place] for place in sorted(result)]


def _lines_before(stream: BinaryIO, offset: int, count: int) -> list[bytes]:
    """The last `count` lines in front of `offset`, as far as they lie within `_NEAR` bytes, without their newlines."""
    # Most lines are short: what is read grows until it holds them, so that many such places cost little.
    size = 256 * count
    while True:
        start = max(offset - size, 0)
        stream.seek(start)
        # The first is a whole line only at the start of the file.
        lines = stream.read(offset - start).split(b"\n")[:-1]
        if len(lines) > count or start == 0 or size >= _NEAR:
            return lines[max(len(lines) - count, 0) :]
        size = min(4 * size, _NEAR)


def misleading(lines: list[Found]) -> bool:
    """Whether in any of the lines field 11 is not the value that is printed after the name."""
    for found in lines:
        value = _VALUE.search(found.text)
        shown = number(value[1]) if value else None
        if shown is None or sort_key(found.text)[0] != shown:
            return True
    return False


def logs_under(path: PathLike) -> list[Path]:
    """The path itself; for a folder, the files in it that look like training logs, sorted by name."""
    root = Path(path)
    if not root.is_dir():
        return [root]
    return [file for file in sorted(root.rglob("*")) if file.is_file() and looks_like_log(file)]


def looks_like_log(file: Path) -> bool:
    """Whether the first 64 kB of the file are text that has lines of Caffe."""
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return False
    return b"\0" not in head and bool(re.search(rb"\w\.(cpp|cu):\d+\] |Iteration \d+", head))


def _matching(path: PathLike, word: bytes) -> Iterator[tuple[int, bytes]]:
    """(offset, line) of every line that holds `word`, which is not empty."""
    splitter = LineSplitter()
    offset = 0  # of the first byte after the complete lines so far
    with open(path, "rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            # A block is searched in place; only the line that crosses its border is copied.
            first, last = block.find(b"\n") + 1, block.rfind(b"\n") + 1
            line = splitter.feed(block[:first] if first else block)
            if not line:
                continue
            offset += splitter.dropped
            splitter.dropped = 0
            if word in line:
                yield offset, line[:-1]
            offset += len(line)
            place = block.find(word, first, last)
            while place >= 0:
                start = block.rfind(b"\n", 0, place) + 1
                end = block.find(b"\n", place)
                yield offset + start - first, block[start:end]
                place = block.find(word, end, last)
            offset += last - first
            splitter.feed(block[last:])
    rest = splitter.rest()
    if word in rest:
        yield offset + splitter.dropped, rest
