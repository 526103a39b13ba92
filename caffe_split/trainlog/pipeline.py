"""The grep pipelines people use on training logs, line for line.

`best` is `grep Test LOG | grep -i acc | sort -nk 11 | tail -N`, `final` is
`grep -B 3 "Optimization Done" LOG | grep -i acc`, both as in the C locale: `sort` orders by the number at
the start of field 11 (what is no number there counts as 0, an exponent is not read) and breaks ties by the
bytes of the whole line. Lines with NUL bytes or invalid UTF-8 are kept, as by `grep -a`.
"""

from __future__ import annotations

import heapq
import os
import re
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from caffe_split.trainlog.lines import LineSplitter

BLOCK = 1 << 20

# Fields end where blanks begin; the number is a sign, digits and a point, nothing else.
_FIELD_11 = re.compile(rb"[ \t]*[^ \t]+(?:[ \t]+[^ \t]+){9}[ \t]+(-?[0-9]*\.?[0-9]*)")
_VALUE = re.compile(rb" = (-?[0-9][0-9.]*(?:[eE][-+]?\d+)?|-?nan|-?inf)", re.IGNORECASE)


@dataclass(frozen=True)
class Found:
    """A line of a log. line: its number from 1; offset: of its first byte; text: the bytes, no line feed."""

    line: int
    offset: int
    text: bytes


def sort_key(text: bytes) -> tuple[float, bytes]:
    """How `sort -nk 11` orders a line."""
    found = _FIELD_11.match(text)
    digits = found[1].strip(b"-.") if found else b""
    return (float(found[1]) if found and digits else 0.0, text)


def best_lines(path: str | os.PathLike[str], count: int) -> list[Found]:
    """The last `count` lines of the sorted accuracy lines, in that order. Reads the file once, in blocks."""
    kept: list[tuple[float, bytes, int, int]] = []
    for line, offset, text in _matching(path, b"Test"):
        if b"acc" in text.lower():
            entry = (*sort_key(text), -line, offset)
            if len(kept) < count:
                heapq.heappush(kept, entry)
            elif count and entry > kept[0]:
                heapq.heapreplace(kept, entry)
    return [Found(-line, offset, text) for _, text, line, offset in sorted(kept)]


def final_lines(path: str | os.PathLike[str], before: int = 3) -> list[Found]:
    """The accuracy lines among the `before` lines that precede each "Optimization Done" (or are it)."""
    result: dict[int, Found] = {}
    window: deque[Found] = deque(maxlen=before + 1)
    for line, offset, text in _matching(path, b""):
        window.append(Found(line, offset, text))
        if b"Optimization Done" in text:
            result.update((found.line, found) for found in window if b"acc" in found.text.lower())
    return [result[line] for line in sorted(result)]


def misleading(lines: list[Found]) -> bool:
    """Does field 11 of a line hold something else than the value printed behind the name?"""
    for found in lines:
        value = _VALUE.search(found.text)
        if value is None or sort_key(found.text)[0] != float(value[1]):
            return True
    return False


def logs_under(path: str | os.PathLike[str]) -> list[Path]:
    """The path itself, or, for a folder, the files in it that hold a training log's words, sorted by name."""
    root = Path(path)
    if not root.is_dir():
        return [root]
    return [file for file in sorted(root.rglob("*")) if file.is_file() and _looks_like_log(file)]


def _looks_like_log(file: Path) -> bool:
    try:
        with file.open("rb") as stream:
            head = stream.read(1 << 16)
    except OSError:
        return False
    return b"\0" not in head and bool(re.search(rb"\w\.(cpp|cu):\d+\] |Iteration \d+", head))


def _matching(path: str | os.PathLike[str], word: bytes) -> Iterator[tuple[int, int, bytes]]:
    """(line number, offset, line) of every line that holds `word`."""
    splitter = LineSplitter()
    line, offset = 0, 0
    with open(path, "rb", buffering=0) as stream:
        while True:
            block = stream.read(BLOCK)
            rest = splitter.rest()
            lines = splitter.feed(block) if block else ([rest] if rest else [])
            if lines:
                offset += splitter.dropped
                splitter.dropped = 0
            for text in lines:
                line += 1
                if word in text:
                    yield line, offset, text
                offset += len(text) + 1
            if not block:
                return
