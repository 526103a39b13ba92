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

OTHER, DISPLAY, TRAIN, RATE, TESTING, TEST = range(6)

PAD = b"\n" * 64  # so that bytes a little beyond the last line may be read
_LONGEST = 64  # bytes of a name, or of the part between the time and the bracket
_WIDTH = 16  # bytes of a number
_MIDDLE = re.compile(rb" +\d+ [\w./+-]{1,255}:\d{1,7}\]")
_MASKS = np.array([(1 << 8 * size) - 1 for size in range(9)], dtype=np.uint64)
_MIX = np.uint64(0x9E3779B97F4A7C15)


def _word(text: bytes) -> np.uint64:
    return np.uint64(int.from_bytes(text, "little"))


_PAIRS = _word(b"\x0f\0\0\x0f\0\0\x0f\0")
_U8, _U10, _U16, _U24, _U32, _U48 = (np.uint64(n) for n in (8, 10, 16, 24, 32, 48))
_BYTE = np.uint64(255)


def _eight_digits(word: np.ndarray) -> np.ndarray:
    """The integer that eight digits spell, the first in the lowest byte; a zero byte counts as 0.

    Neighbours are joined to pairs, pairs to fours, and those to one number.
    """
    word = (word & _word(b"\x0f" * 8)) * np.uint64(10 << 8 | 1) >> _U8
    word = (word & _word(b"\xff\0" * 4)) * np.uint64(100 << 16 | 1) >> _U16
    return (word & _word(b"\xff\xff\0\0" * 2)) * np.uint64(10000 << 32 | 1) >> _U32


def _has_form(word: np.ndarray, form: bytes) -> np.ndarray:
    """Whether the eight bytes have a digit where `form` has a 0, and equal its other bytes."""
    high = _word(b"".join(b"\xf0" if byte == 48 else b"\xff" for byte in form))
    carry = _word(bytes(6 if byte == 48 else 0 for byte in form))
    found: np.ndarray = ((word & high) == _word(form)) & (((word + carry) & high) == _word(form))
    return found


@dataclass
class Lines:
    """The n lines of a block. start, end: their places (without the line feed). kind: one of the six.

    Lines of a kind other than OTHER also have: iteration (DISPLAY, RATE, TESTING), net (TESTING), value (all but
    TESTING), speed (DISPLAY; NaN and has_speed False if none), name (TRAIN, TEST: an index into names),
    date (its four or eight digits as the bytes of an integer) and micro (microseconds since midnight).
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

    def first(self, byte: int, start: np.ndarray, end: np.ndarray) -> np.ndarray:
        """Where the byte first stands in each line, or the line's end."""
        places = np.append(np.flatnonzero(self.inside == byte), len(self.inside))
        found: np.ndarray = np.minimum(places[np.searchsorted(places, start)], end)
        return found

    def table(self, start: np.ndarray) -> np.ndarray:
        """The sixteen bytes from each place on, one row each, as words that can be viewed as bytes."""
        table = np.empty((len(start), 2), "<u8")
        table[:, 0] = self.words[start]
        table[:, 1] = self.words[start + 8]
        return table

    def same(self, start: np.ndarray, length: np.ndarray) -> tuple[list[int], np.ndarray]:
        """(first, which): equal pieces have the same number, `which`; first: the index of one piece per number."""
        mixed = length.astype(np.uint64) * _MIX
        for step in range(0, int(length.max(initial=0)), 8):
            word = self.words[start + step] & _MASKS[np.clip(length - step, 0, 8)]
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
        value = _eight_digits(word << ((8 - count) * 8).astype(np.uint64)).astype(np.int64)
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
        table = self.table(start)
        length = (table.view(np.uint8) <= 32).argmax(axis=1)  # 0 also if the end is not in the table
        after = self.bytes[start + length]
        length[(after != 32) & (after != 10) & (after != 13)] = 0
        table[:, 0] &= _MASKS[np.minimum(length, 8)]
        table[:, 1] &= _MASKS[np.maximum(length - 8, 0)]
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
    end = np.flatnonzero(block.inside == 10)
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
        date=np.zeros(count, np.uint64),
        micro=np.zeros(count, np.int64),
        names=[],
    )
    bracket = block.first(ord("]"), start, end)
    equal = block.first(ord("="), start, end)
    stamped, message = _stamps(block, lines, bracket)
    _iterations(block, lines, stamped, message, equal[stamped])
    _outputs(block, lines, stamped, message, equal[stamped])
    return lines


def _stamps(block: _Block, lines: Lines, bracket: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(lines with a plain prefix, where their messages begin); fills in date and micro."""
    some = np.flatnonzero((bracket < lines.end - 12) & (bracket - lines.start > 24))
    start, bracket = lines.start[some], bracket[some]
    old = block.bytes[start + 5] == 32
    time = start + np.where(old, 6, 10)
    clock, fraction, date = block.words[time], block.words[time + 8], block.words[start + 1]
    length = bracket - time - 14
    severity = block.bytes[start]
    good = (severity == ord("I")) | (severity == ord("W")) | (severity == ord("E"))
    good &= np.where(old, _has_form(date, b"0000 00:"), _has_form(date, b"00000000") & (block.bytes[time - 1] == 32))
    good &= _has_form(clock, b"00:00:00") & _has_form(fraction, b".000000 ")
    good &= (block.bytes[bracket + 1] == 32) & (length > 0) & (length <= _LONGEST)
    pairs = (clock & _PAIRS) * _U10 + (clock >> _U8 & _PAIRS)  # the bytes 0, 3 and 6 are now h, m and s
    hour, minute, second = pairs & _BYTE, pairs >> _U24 & _BYTE, pairs >> _U48 & _BYTE
    good &= (hour < 24) & (minute < 60)
    length = np.where(good, length, 0)
    first, which = block.same(time + 15, length)
    begin = time + 15
    plain = [bool(_MIDDLE.fullmatch(block.data[begin[k] : begin[k] + length[k]])) for k in first]
    good &= np.array(plain, dtype=bool)[which]
    seconds = (hour * np.uint64(60) + minute) * np.uint64(60) + second
    micro = seconds * np.uint64(1_000_000) + _eight_digits(fraction >> _U8 << _U16)
    some = some[good]
    lines.micro[some] = micro[good]
    lines.date[some] = (date & np.where(old, _MASKS[4], _MASKS[8]))[good]
    return some, bracket[good] + 2


def _iterations(block: _Block, lines: Lines, some: np.ndarray, message: np.ndarray, equal: np.ndarray) -> None:
    """DISPLAY, RATE and TESTING among the lines `some`."""
    mine = (block.words[message] == _word(b"Iteratio")) & (block.words[message + 2] == _word(b"eration "))
    some, message, equal = some[mine], message[mine], equal[mine]
    iteration, digits = block.integers(message + 10)
    after = message + 10 + digits
    lines.iteration[some] = iteration
    known = digits > 0
    word = block.words[after]

    testing = known & (word == _word(b", Testin")) & (block.words[after + 8] == _word(b"g net (#"))
    net = block.bytes[after + 16].astype(np.int64) - 48
    testing &= (net >= 0) & (net <= 9) & (block.bytes[after + 17] == ord(")"))
    lines.kind[some[testing]] = TESTING
    lines.net[some[testing]] = net[testing]

    rate = known & (word & _MASKS[7] == _word(b", lr = "))
    _numbers(block, lines, some[rate], after[rate] + 7, RATE)

    back = np.maximum(equal - 7, 0)
    loss = known & (block.words[back] == _word(b", loss =")) & (block.bytes[equal + 1] == 32)
    bare = loss & (back == after)
    _numbers(block, lines, some[bare], equal[bare] + 2, DISPLAY)
    timed = loss & (word & _MASKS[2] == _word(b" (")) & (block.bytes[back - 1] == ord(")"))
    some, after, equal = some[timed], after[timed], equal[timed]
    speed, length = block.numbers(after + 2)
    behind = after + 2 + length
    timed = (length > 0) & (block.words[behind] == _word(b" iter/s,")) & (block.bytes[behind + 8] == 32)
    lines.speed[some[timed]] = speed[timed]
    lines.has_speed[some[timed]] = True
    _numbers(block, lines, some[timed], equal[timed] + 2, DISPLAY)


def _outputs(block: _Block, lines: Lines, some: np.ndarray, message: np.ndarray, equal: np.ndarray) -> None:
    """TRAIN and TEST among the lines `some`."""
    word, more = block.words[message], block.words[message + 8]
    train = (word == _word(b"    Trai")) & (more == _word(b"n net ou"))
    train &= block.words[message + 14] == _word(b"output #")
    test = (word == _word(b"    Test")) & (more == _word(b" net out"))
    test &= block.words[message + 13] == _word(b"output #")
    mine = train | test
    some, equal, train = some[mine], equal[mine], train[mine]
    place = message[mine] + np.where(train, 22, 21)
    _, digits = block.integers(place)
    start = place + digits + 2
    good = (digits > 0) & (block.words[place + digits] & _MASKS[2] == _word(b": "))
    length = equal - 1 - start
    good &= (length > 0) & (length <= _LONGEST) & (equal < lines.end[some])
    good &= (block.bytes[equal - 1] == 32) & (block.bytes[equal + 1] == 32)
    some, equal, train, start, length = some[good], equal[good], train[good], start[good], length[good]
    first, which = block.same(start, length)
    lines.names = [block.data[start[k] : start[k] + length[k]] for k in first]
    lines.name[some] = which
    _numbers(block, lines, some, equal + 2, np.where(train, TRAIN, TEST))


def _numbers(block: _Block, lines: Lines, some: np.ndarray, place: np.ndarray, kind: int | np.ndarray) -> None:
    """Set the value and the kind of those lines whose value has the plain form."""
    value, length = block.numbers(place)
    good = length > 0
    lines.value[some[good]] = value[good]
    lines.kind[some[good]] = np.broadcast_to(kind, good.shape)[good]
