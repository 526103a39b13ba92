"""The grep pipelines people use on training logs, line for line.

`best` is `grep Test LOG | grep -i acc | sort -nk 11 | tail -N`, `final` is
`grep -B 3 "Optimization Done" LOG | grep -i acc`, both as in the C locale: `sort` orders by the number at
the start of field 11 (anything else there counts as 0, and an exponent is not read) and breaks ties by the
bytes of the whole line. Lines with NUL bytes or invalid UTF-8 are kept, as by `grep -a`.
"""

from __future__ import annotations

import heapq
import os
import re
from collections.abc import Callable, Container, Iterable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, open_again
from caffe_split.trainlog import messages
from caffe_split.trainlog.lines import LineSplitter
from caffe_split.trainlog.messages import number
from caffe_split.trainlog.outputs import is_loss
from caffe_split.trainlog.ranks import check_rank, tagged
from caffe_split.trainlog.text import Text, blocks, head

BLOCK = 1 << 20
# In this many first bytes it is seen whether a file is a log.
_HEAD = 1 << 16
# The lines before an "Optimization Done" are looked for in this many bytes before it.
_NEAR = 1 << 18
# A loss that is not finite is looked for in this many bytes before and after a line.
_BESIDE = 1 << 14
# Endings of files that are no logs: of large ones, and of those that tell of a training, as our exports and reports do.
_NO_LOGS = {".caffemodel", ".solverstate", ".prototxt", ".h5", ".mdb", ".png", ".jpg", ".jpeg", ".npy", ".binaryproto"}
_NO_LOGS |= {".json", ".csv", ".html", ".htm", ".md", ".svg", ".pdf", ".ipynb", ".py", ".sh"}

# What the logs of `caffe test`, `caffe time` and solvers that only test their nets have; and what those of trainings
# have. A block more or less does not matter: a training prints its iterations again and again.
_TESTS = re.compile(rb"\bBatch \d+, .+ = |\*\*\* Benchmark begins|\bmax_iter: 0\b")
_TRAINS = re.compile(rb"\bmax_iter: [1-9]|Iteration [1-9]")

# The log of a run's folder.
LOG_NAME = "train.log"

# Of how many lines before the end it is seen that several nets were tested.
_PHASE = 100
_TESTED = re.compile(rb"Testing net \(#(\d{1,6})\)")
NETS_NOTE = "it has several test nets ({}); --net N shows one"

Say = Callable[[str], None]
# Offset and text of a line, and a function that gives the N lines before it.
_Match = tuple[int, bytes, Callable[[int], list[bytes]]]

# Fields end where blanks begin; the number is a sign, digits and a point, nothing else.
_FIELD_11 = re.compile(rb"[ \t]*[^ \t]+(?:[ \t]+[^ \t]+){9}[ \t]+(-?[0-9]*\.?[0-9]*)")
_VALUE = re.compile(rb" = (-?[0-9][0-9.]*(?:[eE][-+]?\d+)?|-?nan|-?inf)", re.IGNORECASE)
_NOT_FINITE = re.compile(rb"(?:= |#\d+: |loss is )[-+]?(?:nan|inf|1\.#)", re.IGNORECASE)


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


def best_lines(
    path: PathLike, count: int, rank: int | None = None, say: Say | None = None, among: Container[int] | None = None
) -> list[Found]:
    """The last `count` lines of the sorted accuracy lines, in that order. Reads the file once, in blocks.

    rank: see `read_log`. say: called with what is to be said of the file. among: the offsets of the lines that count;
    None: all do.
    """
    nets: set[bytes] = set()  # of the lines

    def find(matches: Iterator[_Match]) -> list[Found]:
        kept: list[tuple[float, bytes, int]] = []
        nets.clear()
        net = b"0"
        for offset, text, _ in matches:
            tested = _TESTED.search(text)
            if tested:
                net = tested[1]
            if b"acc" in text.lower() and (among is None or offset in among):
                nets.add(net)
                entry = (*sort_key(text), -offset)
                if len(kept) < count:
                    heapq.heappush(kept, entry)
                elif count and entry > kept[0]:
                    heapq.heapreplace(kept, entry)
        return [Found(-offset, text) for _, text, offset in sorted(kept)]

    found = _search(path, b"Test", find, rank, say)
    _say_of_nets(path, nets, say)
    return found


def final_lines(path: PathLike, before: int = 3, rank: int | None = None, say: Say | None = None) -> list[Found]:
    """The accuracy lines among the `before` lines that precede each "Optimization Done" (or are it)."""
    nets: set[bytes] = set()  # that were tested at the end

    def find(matches: Iterator[_Match]) -> list[Found]:
        result: dict[int, Found] = {}
        nets.clear()
        last: Callable[[int], list[bytes]] | None = None
        for offset, text, earlier in matches:
            lines, last = earlier(before), earlier
            place = offset - sum(len(found) + 1 for found in lines)
            for found in (*lines, text):
                if b"acc" in found.lower():
                    result[place] = Found(place, found)
                place += len(found) + 1
        nets.update(_TESTED.findall(b"\n".join(last(_PHASE))) if last is not None else ())
        return [result[place] for place in sorted(result)]

    found = _search(path, b"Optimization Done", find, rank, say)
    _say_of_nets(path, nets if found else set(), say)
    return found


def _say_of_nets(path: PathLike, nets: set[bytes], say: Say | None) -> None:
    if len(nets) > 1 and say is not None:
        numbers = sorted(map(int, nets))
        say(f"note: {path}: " + NETS_NOTE.format(", ".join(f"#{net}" for net in numbers)))


def misleading(lines: list[Found]) -> bool:
    """Whether in any of the lines field 11 is not the value that is printed after the name."""
    for found in lines:
        value = _VALUE.search(found.text)
        shown = number(value[1]) if value else None
        if shown is None or sort_key(found.text)[0] != shown:
            return True
    return False


def losses_in(lines: list[Found]) -> list[str]:
    """The names of the outputs in the lines that are losses, though `acc` stands in the line."""
    outputs = [found for found in (messages.NET_OUTPUT.search(line.text) for line in lines) if found]
    named = [(messages.text(output[1]), messages.weight_sign(output[3])) for output in outputs]
    return list(dict.fromkeys(name for name, weight in named if is_loss(name, weight)))


def logs_under(path: PathLike) -> list[Path]:
    """The path itself; for a folder, the logs of trainings in it, sorted by name, but a folder's own `LOG_NAME` first.

    Logs of tests alone are left out. A file that cannot be read and has `log` in its name is there, so that the
    reader of the log says why.
    """
    root = Path(path)
    if not root.is_dir():
        return [root]
    files = (file for file in root.rglob("*") if file.suffix.lower() not in _NO_LOGS and file.is_file())
    found = [file for file in files if looks_like_log(file) and not _only_tests(file)]
    return sorted(found, key=lambda file: ["" if part == LOG_NAME else part for part in file.parts])


def each_once(files: Iterable[Path]) -> list[Path]:
    """The files, each once though it is reached twice: by another path, or in a folder within another."""
    once: dict[str, Path] = {}
    for file in files:
        once.setdefault(os.path.realpath(file), file)
    return list(once.values())


def looks_like_log(file: Path) -> bool:
    """Whether the first 64 kB of the file are text, possibly compressed, that has lines of Caffe.

    Of a file that cannot be read, as without a library for its packing: whether its name is that of a log.
    """
    try:
        found = head(file, _HEAD)
    except (OSError, CaffeSplitError):
        return "log" in file.name.lower()
    return b"\0" not in found and bool(re.search(rb"\w\.(cpp|cu):\d+\] |Iteration \d+", found))


def _only_tests(file: Path) -> bool:
    """Whether a log has the marks of a test and none of a training. One that cannot be read has none."""
    tests = False
    try:
        for block in blocks(file, Text(), _HEAD):
            if _TRAINS.search(block):
                return False
            tests = tests or _TESTS.search(block) is not None
    except (OSError, CaffeSplitError):
        return False
    return tests


def _search(
    path: PathLike, word: bytes, find: Callable[[Iterator[_Match]], list[Found]], rank: int | None, say: Say | None
) -> list[Found]:
    """What `find` finds in the lines that hold `word`."""
    text = Text() if rank is None else Text(several=True, rank=rank)
    found = find(_matching(path, word, text))
    if text.ranks is None and any(tagged(line.text) for line in found):
        text = Text(several=True)
        found = find(_matching(path, word, text))
    if text.ranks is not None:
        check_rank(path, text.ranks, rank)
        first = min(text.ranks.seen)
        if rank is None and first != text.ranks.rank:
            text = Text(several=True, rank=first)
            found = find(_matching(path, word, text))
    if say is not None:
        for note in text.notes:
            say(f"note: {path}: {note}")
    return found


def _matching(path: PathLike, word: bytes, text: Text) -> Iterator[_Match]:
    """The lines that hold `word`, which is not empty."""
    splitter = LineSplitter()
    offset = 0  # of the first byte after the complete lines so far
    past = b""  # the last of the complete lines so far
    for block in blocks(path, text, BLOCK):
        # A block is searched in place; only the line that crosses its border is copied.
        first, last = block.find(b"\n") + 1, block.rfind(b"\n") + 1
        line = splitter.feed(block[:first] if first else block)
        if not line:
            continue
        offset += splitter.dropped
        splitter.dropped = 0
        if word in line:
            yield offset, line[:-1], partial(_lines_before, past, block, 0, 0)
        offset += len(line)
        past = _end(past + line)
        place = block.find(word, first, last)
        while place >= 0:
            start = block.rfind(b"\n", 0, place) + 1
            end = block.find(b"\n", place)
            yield offset + start - first, block[start:end], partial(_lines_before, past, block, first, start)
            place = block.find(word, end, last)
        offset += last - first
        past = _end((past if last - first < _NEAR else b"") + block[max(first, last - _NEAR - 1) : last])
        splitter.feed(block[last:])
    rest = splitter.rest()
    if word in rest:
        yield offset + splitter.dropped, rest, partial(_lines_before, past, b"", 0, 0)


def may_not_be_finite(path: PathLike, found: list[Found]) -> bool:
    """Whether a loss that is not finite stands near one of the lines, or near the end of the log.

    It costs little. True also if the file is no plain text, where it cannot be looked up.
    """
    with open_again(path) as stream:
        for line in found:
            stream.seek(max(line.offset - _BESIDE, 0))
            near = stream.read(2 * _BESIDE + len(line.text))
            if line.text not in near or _NOT_FINITE.search(near):
                return True
        stream.seek(max(stream.seek(0, os.SEEK_END) - 4 * _BESIDE, 0))
        return _NOT_FINITE.search(stream.read()) is not None


def _end(lines: bytes) -> bytes:
    """The last whole lines, `_NEAR` bytes of them at most."""
    return lines if len(lines) <= _NEAR else lines[lines.find(b"\n", len(lines) - _NEAR - 1) + 1 :]


def _lines_before(past: bytes, block: bytes, first: int, start: int, count: int) -> list[bytes]:
    """The last `count` lines in front of `start`, without line feeds: of `block` from `first` on, then of `past`."""
    lines: list[bytes] = []
    for data, lowest, end in ((block, first, start), (past, 0, len(past))):
        while len(lines) < count and end > lowest and end > start - _NEAR:
            begin = data.rfind(b"\n", lowest, end - 1) + 1 or lowest
            lines.append(data[begin : end - 1])
            end = begin
    return lines[::-1]
