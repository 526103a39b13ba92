"""The five most frequent kinds of lines, read by numpy for a whole block at once.

Running Python code for each line of a log takes as long as BVLC's own script does. Here numpy works on columns of
bytes: the places of line feeds, brackets and equal signs, and words of eight bytes. Only the plainest form of each
kind is read; every other line is left to the patterns of the parser, which give the same result for these forms (the
tests compare both on every log).
"""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np

from caffe_split.trainlog.words import BYTE, MASKS, eight_digits, has_form, plain_decimals, word_of

OTHER, DISPLAY, TRAIN, RATE, TESTING, TEST = range(6)

PAD = b"\n" * 64  # so that bytes a little beyond the last line may be read
_LONGEST = 64  # bytes of a name, or of the part between the time and the bracket
_WIDTH = 16  # bytes of a number
_LINE_FEED, _BRACKET, _EQUAL = b"\n]="
_PIECE = 1 << 18  # bytes
_MIDDLE = re.compile(rb" +\d+ [\w./+-]{1,255}:\d{1,7}\]")
_MIX = np.uint64(0x9E3779B97F4A7C15)


_PAIRS = word_of(b"\x0f\0\0\x0f\0\0\x0f\0")
_U8, _U10, _U16, _U24, _U32, _U48 = (np.uint64(n) for n in (8, 10, 16, 24, 32, 48))


@dataclass
class Lines:
    """The n lines of a block. start, end: their places (without the line feed). kind: one of the six.

    Lines of a kind other than OTHER also have: iteration (DISPLAY, RATE, TESTING), net (TESTING), value (all but
    TESTING), speed (DISPLAY; NaN and has_speed False if none), name (TRAIN, TEST: an index into names), weight (TRAIN,
    TEST: the sign of the printed loss weight; 0 if none), date (its four or eight digits as the bytes of an integer)
    and micro (microseconds since midnight).
    """

    data: bytes
    start: np.ndarray
    end: np.ndarray
    kind: np.ndarray
    iteration: np.ndarray
    net: np.ndarray
    value: np.ndarray
    speed: np.ndarray
    has_speed: np.ndarray
    name: np.ndarray
    weight: np.ndarray
    date: np.ndarray
    micro: np.ndarray
    names: list[bytes]

    def text(self, place: int) -> bytes:
        """One line, without its line feed."""
        return self.data[self.start[place] : self.end[place]]


class _Block:
    """A block as bytes and as overlapping words of eight bytes."""

    def __init__(self, data: bytes) -> None:
        self.data = data
        self.bytes = np.frombuffer(data, np.uint8)
        self.inside = self.bytes[: len(data) - len(PAD)]
        self.words: np.ndarray = np.ndarray((len(data) - 7,), "<u8", data, 0, (1,))

    def table(self, start: np.ndarray) -> np.ndarray:
        """The sixteen bytes from each place on, one row each, as words that can be viewed as bytes."""
        table = np.empty((len(start), 2), "<u8")
        table[:, 0] = self.words[start]
        table[:, 1] = self.words[start + 8]
        return table

    def same(self, start: np.ndarray, length: np.ndarray) -> tuple[list[int], np.ndarray]:
        """(first, which): equal pieces have the same number, `which`; first: the index of one piece per number."""
        mixed = length.astype(np.uint64) * _MIX
        shortest = int(length.min(initial=_LONGEST))
        for step in range(0, int(length.max(initial=0)), 8):
            word = self.words[start + step]
            if shortest < step + 8:
                word &= MASKS[np.clip(length - step, 0, 8)]
            mixed = (mixed ^ word) * _MIX
            mixed ^= mixed >> np.uint64(29)
        # Mostly there are few different pieces, and then finding one after another is faster than sorting.
        which = np.full(len(mixed), -1)
        first: list[int] = []
        while len(first) < 16:
            place = int((which < 0).argmax()) if len(which) else 0
            if not len(which) or which[place] >= 0:
                return first, which
            which[mixed == mixed[place]] = len(first)
            first.append(place)
        _, places, which = np.unique(mixed, return_index=True, return_inverse=True)
        return places.tolist(), which

    def integers(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(value, number of digits) of the integer at each place; 0 digits if there is none or it is too long."""
        word = self.words[start]
        ends = (word.view(np.uint8).reshape(-1, 8) - np.uint8(48)) > 9
        count = ends.argmax(axis=1)
        value = eight_digits(word << ((8 - count) * 8).astype(np.uint64)).astype(np.int64)
        long = np.flatnonzero((count == 0) & ~ends[:, 0])
        if len(long):
            digits = self.table(start[long]).view(np.uint8) - np.uint8(48)
            count[long] = (digits > 9).argmax(axis=1)  # 0 where all sixteen are digits
            many = np.zeros(len(long), np.int64)
            for column in range(int(count[long].max())):
                many = np.where(column < count[long], many * 10 + digits[:, column], many)
            value[long] = many
        return value, count

    def numbers(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(value, length) of the number at each place, up to a blank or the line's end; length 0: none."""
        value, length, plain = plain_decimals(self.words[start])
        if not plain.all():
            some = np.flatnonzero(~plain)
            value[some], length[some] = self._any_numbers(start[some])
        return value, length

    def _any_numbers(self, start: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The same for numbers of any form and up to fifteen bytes."""
        table = self.table(start)
        length = (table.view(np.uint8) <= 32).argmax(axis=1)  # 0 also if the end is not in the table
        after = self.bytes[start + length]
        length[(after != 32) & (after != 10) & (after != 13)] = 0
        table[:, 0] &= MASKS[np.minimum(length, 8)]
        table[:, 1] &= MASKS[np.maximum(length - 8, 0)]
        texts = table.view(f"S{_WIDTH}")[:, 0]
        texts[length == 0] = b"0"
        try:
            return texts.astype(np.float64), length
        except ValueError:  # some text is not a number
            value = np.zeros(len(texts))
            for place, text in enumerate(texts):
                try:
                    value[place] = float(text)
                except ValueError:
                    length[place] = 0
            return value, length


def scan(data: bytes) -> Lines:
    """Sort the lines of a block (whole lines, each with its line feed, and then PAD)."""
    block = _Block(data)
    marks = _marks(block.inside)
    mark = block.bytes[marks]
    last = np.flatnonzero(mark == _LINE_FEED)  # of each line's marks
    end = marks[last]
    start = np.concatenate([[0], end[:-1] + 1])
    count = len(end)
    lines = Lines(
        data,
        start,
        end,
        kind=np.zeros(count, np.int8),
        iteration=np.zeros(count, np.int64),
        net=np.zeros(count, np.int64),
        value=np.full(count, np.nan),
        speed=np.full(count, np.nan),
        has_speed=np.zeros(count, bool),
        name=np.zeros(count, np.int64),
        weight=np.zeros(count, np.int8),
        date=np.zeros(count, np.uint64),
        micro=np.zeros(count, np.int64),
        names=[],
    )
    first = np.concatenate([[0], last[:-1] + 1])
    some = np.flatnonzero(mark[first] == _BRACKET)
    stamped, message = _stamps(block, lines, some, marks[first[some]])
    second = first[stamped] + 1
    equal = marks[second]  # or the line's end, if it has no equal sign
    more = np.flatnonzero(mark[second] == _BRACKET)
    if len(more):
        places = marks[mark == _EQUAL]
        after = np.append(places, len(block.inside))[np.searchsorted(places, equal[more])]
        equal[more] = np.minimum(after, end[stamped[more]])
    word = block.words[message]
    mine = np.flatnonzero(word == word_of(b"Iteratio"))
    _iterations(block, lines, stamped[mine], message[mine], equal[mine])
    mine = np.flatnonzero((word == word_of(b"    Trai")) | (word == word_of(b"    Test")))
    _outputs(block, lines, stamped[mine], message[mine], equal[mine])
    return lines


def _marks(inside: np.ndarray) -> np.ndarray:
    """Where line feeds, brackets and equal signs stand; sought in pieces that fit into the processor's cache."""
    found = []
    for begin in range(0, len(inside), _PIECE):
        piece = inside[begin : begin + _PIECE]
        marked = piece == _LINE_FEED
        marked |= piece == _BRACKET
        marked |= piece == _EQUAL
        found.append(np.flatnonzero(marked) + begin)
    return np.concatenate(found)


def _stamps(block: _Block, lines: Lines, some: np.ndarray, bracket: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(those of the lines `some` that have a plain prefix, where their messages begin); fills in date and micro.

    bracket: where each of `some` has its first bracket.
    """
    fits = np.flatnonzero((bracket < lines.end[some] - 12) & (bracket - lines.start[some] > 24))
    some, bracket = some[fits], bracket[fits]
    start = lines.start[some]
    date = block.words[start + 1]
    old = (date >> _U32 & BYTE) == 32
    time = start + np.where(old, 6, 10)
    clock, fraction = block.words[time], block.words[time + 8]
    length = bracket - time - 14
    severity = block.bytes[start]
    good = (severity == ord("I")) | (severity == ord("W")) | (severity == ord("E"))
    good &= np.where(old, has_form(date, b"0000 00:"), has_form(date, b"00000000") & (block.bytes[time - 1] == 32))
    good &= has_form(clock, b"00:00:00") & has_form(fraction, b".000000 ")
    good &= (block.bytes[bracket + 1] == 32) & (length > 0) & (length <= _LONGEST)
    pairs = (clock & _PAIRS) * _U10 + (clock >> _U8 & _PAIRS)  # the bytes 0, 3 and 6 are now h, m and s
    hour, minute, second = pairs & BYTE, pairs >> _U24 & BYTE, pairs >> _U48 & BYTE
    good &= (hour < 24) & (minute < 60)
    length = np.where(good, length, 0)
    first, which = block.same(time + 15, length)
    begin = time + 15
    plain = [bool(_MIDDLE.fullmatch(block.data[begin[k] : begin[k] + length[k]])) for k in first]
    good &= np.array(plain, dtype=bool)[which]
    seconds = (hour * np.uint64(60) + minute) * np.uint64(60) + second
    micro = seconds * np.uint64(1_000_000) + eight_digits(fraction >> _U8 << _U16)
    some = some[good]
    lines.micro[some] = micro[good]
    lines.date[some] = (date & np.where(old, MASKS[4], MASKS[8]))[good]
    return some, bracket[good] + 2


def _iterations(block: _Block, lines: Lines, some: np.ndarray, message: np.ndarray, equal: np.ndarray) -> None:
    """DISPLAY, RATE and TESTING among the lines `some`, whose messages begin with `Iteratio`."""
    iteration, digits = block.integers(message + 10)
    after = message + 10 + digits
    lines.iteration[some] = iteration
    known = (digits > 0) & (block.words[message + 2] == word_of(b"eration "))
    word = block.words[after]

    testing = known & (word == word_of(b", Testin")) & (block.words[after + 8] == word_of(b"g net (#"))
    net = block.bytes[after + 16].astype(np.int64) - 48
    testing &= (net >= 0) & (net <= 9) & (block.bytes[after + 17] == ord(")"))
    lines.kind[some[testing]] = TESTING
    lines.net[some[testing]] = net[testing]

    rate = known & (word & MASKS[7] == word_of(b", lr = "))
    _numbers(block, lines, some[rate], after[rate] + 7, RATE)

    back = np.maximum(equal - 7, 0)
    loss = known & (block.words[back] == word_of(b", loss =")) & (block.bytes[equal + 1] == 32)
    bare = loss & (back == after)
    _numbers(block, lines, some[bare], equal[bare] + 2, DISPLAY)
    timed = loss & (word & MASKS[2] == word_of(b" (")) & (block.bytes[back - 1] == ord(")"))
    some, after, equal = some[timed], after[timed], equal[timed]
    speed, length = block.numbers(after + 2)
    behind = after + 2 + length
    timed = (length > 0) & (block.words[behind] == word_of(b" iter/s,")) & (block.bytes[behind + 8] == 32)
    lines.speed[some[timed]] = speed[timed]
    lines.has_speed[some[timed]] = True
    _numbers(block, lines, some[timed], equal[timed] + 2, DISPLAY)


def _outputs(block: _Block, lines: Lines, some: np.ndarray, message: np.ndarray, equal: np.ndarray) -> None:
    """TRAIN and TEST among the lines `some`, whose messages begin with `    Trai` or `    Test`."""
    train = block.bytes[message + 5] == ord("r")
    place = message + np.where(train, 22, 21)
    good = block.words[message + 8] == np.where(train, word_of(b"n net ou"), word_of(b" net out"))
    good &= block.words[place - 8] == word_of(b"output #")
    _, digits = block.integers(place)
    start = place + digits + 2
    good &= (digits > 0) & (block.words[place + digits] & MASKS[2] == word_of(b": "))
    length = equal - 1 - start
    good &= (length > 0) & (length <= _LONGEST) & (equal < lines.end[some])
    good &= (block.bytes[equal - 1] == 32) & (block.bytes[equal + 1] == 32)
    some, equal, train, start, length = some[good], equal[good], train[good], start[good], length[good]
    first, which = block.same(start, length)
    begin, stop = start[first], (start + length)[first]
    lines.names = [block.data[a:b] for a, b in zip(begin.tolist(), stop.tolist())]
    lines.name[some] = which
    some, after = _numbers(block, lines, some, equal + 2, np.where(train, TRAIN, TEST))
    word = block.words[after]
    weighted = word & MASKS[4] == word_of(b" (* ")
    negative = weighted & (word >> _U32 & BYTE == ord("-"))
    lines.weight[some] = np.where(negative, -1, weighted)


def _numbers(
    block: _Block, lines: Lines, some: np.ndarray, place: np.ndarray, kind: int | np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Set the value and the kind of those lines whose value has the plain form; returns them, and where it ends."""
    value, length = block.numbers(place)
    if not length.all():
        good = np.flatnonzero(length)
        some, value, kind = some[good], value[good], kind[good] if isinstance(kind, np.ndarray) else kind
        place, length = place[good], length[good]
    lines.value[some] = value
    lines.kind[some] = kind
    return some, place + length
