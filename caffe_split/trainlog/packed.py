"""Columns of numbers that grow at their end and take little room: all but the last few are kept as small integers.

A log of hundreds of megabytes has millions of numbers, most of which differ little from the one before (iterations,
clocks, places of lines) or have few digits (losses). Nothing is lost: a chunk that does not come back bit for bit is
kept as it is.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

# Numbers per chunk.
CHUNK = 1 << 14
_FIRST = 16  # numbers for which a new column has room
_MOST_DECIMALS = 12
_SMALL = (np.uint8, np.uint16, np.uint32)


class _Chunk(NamedTuple):
    """CHUNK numbers: `small` and `least` give integers; by kind they are the steps from `first` on, or decimals.

    decimals: the digits after the point of floats; None for integers. small None: all are equal to `least`.
    """

    small: np.ndarray | None
    least: int
    first: int
    decimals: int | None

    def numbers(self) -> np.ndarray:
        """Int64 or float64 (CHUNK)."""
        count = CHUNK if self.decimals is not None else CHUNK - 1
        whole = np.full(count, self.least, np.int64)
        if self.small is not None:
            whole += self.small
        if self.decimals is not None:
            return whole / 10.0**self.decimals
        numbers = np.empty(CHUNK, np.int64)
        numbers[0] = self.first
        np.cumsum(whole, out=numbers[1:])
        numbers[1:] += self.first
        return numbers


def _small(whole: np.ndarray) -> tuple[np.ndarray | None, int] | None:
    """Integers as small ones above their least; None if they differ by too much."""
    least, most = int(whole.min()), int(whole.max())
    if least == most:
        return None, least
    kind = next((kind for kind in _SMALL if most - least <= np.iinfo(kind).max), None)
    return None if kind is None else ((whole - least).astype(kind), least)


def _pack_integers(numbers: np.ndarray) -> _Chunk | np.ndarray:
    found = _small(np.diff(numbers))
    return numbers.copy() if found is None else _Chunk(*found, int(numbers[0]), None)


def _pack_floats(numbers: np.ndarray, decimals: int) -> _Chunk | np.ndarray:
    """The numbers as integers over a power of ten; decimals: the one that is tried first."""
    for places in (decimals, *range(_MOST_DECIMALS + 1)):
        with np.errstate(invalid="ignore", over="ignore"):
            whole = np.rint(numbers * 10.0**places)
        if not np.abs(whole).max() < 1 << 52:  # also if it is nan
            break
        if np.array_equal(whole / 10.0**places, numbers):
            found = _small(whole.astype(np.int64))
            chunk = None if found is None else _Chunk(*found, 0, places)
            # Not so for -0.0.
            if chunk is not None and chunk.numbers().tobytes() == numbers.tobytes():
                return chunk
            break
    return numbers.copy()


class Series:
    """The numbers that a `Growing` held at one time; int64 or float64. It costs nothing until they are asked for."""

    __slots__ = ("_chunks", "_count", "_size", "_tail")

    def __init__(self, chunks: list[_Chunk | np.ndarray], count: int, tail: np.ndarray, size: int) -> None:
        self._chunks, self._count, self._tail, self._size = chunks, count, tail, size

    def __len__(self) -> int:
        return self._size

    def __repr__(self) -> str:
        return repr(self.array())

    def head(self, size: int) -> Series:
        """The first `size` numbers."""
        return Series(self._chunks, self._count, self._tail, min(size, self._size))

    def array(self) -> np.ndarray:
        """All numbers, read-only."""
        chunks = self._chunks[: min(self._count, -(-self._size // CHUNK))]
        rest = self._size - CHUNK * len(chunks)
        if chunks:
            parts = [chunk.numbers() if isinstance(chunk, _Chunk) else chunk for chunk in chunks]
            whole: np.ndarray = np.concatenate([*parts, self._tail[: max(rest, 0)]])[: self._size]
        else:
            whole = self._tail[: self._size]
        whole.flags.writeable = False
        return whole

    def ends(self) -> tuple[int, int]:
        """The first and the last number, as integers; there must be one."""
        return int(self._at(0)), int(self._at(self._size - 1))

    def _at(self, place: int) -> float:
        which = place // CHUNK
        if which >= self._count:
            return self._tail[place - CHUNK * self._count]  # type: ignore[no-any-return]
        chunk = self._chunks[which]
        return (chunk.numbers() if isinstance(chunk, _Chunk) else chunk)[place % CHUNK]  # type: ignore[no-any-return]


class Growing:
    """A column that grows at its end."""

    __slots__ = ("_chunks", "_decimals", "_tail", "_used")

    def __init__(self, dtype: type) -> None:
        self._chunks: list[_Chunk | np.ndarray] = []
        self._tail: np.ndarray = np.empty(_FIRST, dtype)
        self._used = 0
        self._decimals = 0

    def __len__(self) -> int:
        return CHUNK * len(self._chunks) + self._used

    def append(self, value: float) -> None:
        """Add a value."""
        if self._used == len(self._tail):
            self._room(1)
        self._tail[self._used] = value
        self._used += 1

    def extend(self, values: np.ndarray) -> None:
        """Add several values."""
        done = 0
        while done < len(values):
            self._room(len(values) - done)
            more = min(len(values) - done, len(self._tail) - self._used)
            self._tail[self._used : self._used + more] = values[done : done + more]
            self._used += more
            done += more

    def last(self) -> int:
        """The last value, as an integer; -1 if there is none."""
        return self.series().ends()[1] if len(self) else -1

    def replace_last(self, value: float) -> None:
        """Change the last value."""
        self._tail[self._used - 1] = value

    def series(self) -> Series:
        """All values up to now."""
        return Series(self._chunks, len(self._chunks), self._tail, len(self))

    def _room(self, more: int) -> None:
        """Make room for another value, at best for `more`. A full chunk is packed when the next value comes."""
        if self._used == CHUNK:
            self._pack()
        elif self._used + more > len(self._tail) and len(self._tail) < CHUNK:
            tail = np.empty(min(max(2 * len(self._tail), self._used + more), CHUNK), self._tail.dtype)
            tail[: self._used] = self._tail[: self._used]
            self._tail = tail

    def _pack(self) -> None:
        if self._tail.dtype.kind == "f":
            chunk = _pack_floats(self._tail, self._decimals)
            self._decimals = chunk.decimals or 0 if isinstance(chunk, _Chunk) else self._decimals
        else:
            chunk = _pack_integers(self._tail)
        self._chunks.append(chunk)
        self._tail = np.empty(CHUNK, self._tail.dtype)
        self._used = 0
