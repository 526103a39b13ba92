"""Tables of numbers: sparse columns that grow without being copied, dense numpy columns on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog.lines import NO_CLOCK

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]


class Growing:
    """A numpy column that grows at its end. A `view` is no copy and stays valid while the column grows."""

    __slots__ = ("_data", "_size")

    def __init__(self, dtype: type) -> None:
        self._data: np.ndarray = np.empty(16, dtype)
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def _room(self, more: int) -> None:
        if self._size + more > len(self._data):
            data = np.empty(max(2 * len(self._data), self._size + more), self._data.dtype)
            data[: self._size] = self._data[: self._size]
            self._data = data

    def append(self, value: float) -> None:
        """Add a value."""
        self._room(1)
        self._data[self._size] = value
        self._size += 1

    def extend(self, values: np.ndarray) -> None:
        """Add several values."""
        self._room(len(values))
        self._data[self._size : self._size + len(values)] = values
        self._size += len(values)

    def last(self) -> int:
        """The last value, as an integer; -1 if there is none."""
        return int(self._data[self._size - 1]) if self._size else -1

    def replace_last(self, value: float) -> None:
        """Change the last value."""
        self._data[self._size - 1] = value

    def view(self) -> np.ndarray:
        """All values up to now, read-only."""
        view = self._data[: self._size]
        view.flags.writeable = False
        return view


@dataclass(frozen=True)
class Column:
    """m values of a table. row: int64 (m), ascending; value: float64 (m); line, offset: int64 (m)."""

    row: np.ndarray
    value: np.ndarray
    line: np.ndarray
    offset: np.ndarray

    def head(self, rows: int) -> Column:
        """Its values in the first `rows` rows; no copy."""
        stop = int(np.searchsorted(self.row, rows))
        return Column(self.row[:stop], self.value[:stop], self.line[:stop], self.offset[:stop])


@dataclass(frozen=True)
class Part:
    """n rows of one run. iteration: int64 (n). clock: int64 (n), microseconds since 1970 or NO_CLOCK.

    origin: microseconds from which the seconds count, or NO_CLOCK. columns: what was printed, by name.
    """

    iteration: np.ndarray
    clock: np.ndarray
    origin: int
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.iteration)

    def head(self, rows: int) -> Part:
        """The first `rows` rows; no copy."""
        if rows >= len(self):
            return self
        columns = {name: column.head(rows) for name, column in self.columns.items()}
        return Part(self.iteration[:rows], self.clock[:rows], self.origin, columns)

    def later(self, seconds: float) -> Part:
        """The same rows, `seconds` later in the training."""
        origin = self.origin if self.origin == NO_CLOCK else self.origin - round(seconds * 1e6)
        return Part(self.iteration, self.clock, origin, self.columns)


class _Dense(Mapping[str, np.ndarray]):
    """One field of all columns, as arrays with an entry per row, which are made when asked for."""

    def __init__(self, table: Table, field: str, missing: float) -> None:
        self._table, self._field, self._missing = table, field, missing

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._table.names:
            raise KeyError(name)
        return _join([self._lay_out(part, name) for part in self._table.parts])

    def _lay_out(self, part: Part, name: str) -> np.ndarray:
        column = part.columns.get(name)
        entries: np.ndarray = np.empty(0) if column is None else getattr(column, self._field)
        if column is not None and len(entries) == len(part):
            return entries
        dense: np.ndarray = np.full(len(part), self._missing)
        if column is not None:
            dense = dense.astype(entries.dtype)
            dense[column.row] = entries
        return dense

    def __iter__(self) -> Iterator[str]:
        return iter(self._table.names)

    def __len__(self) -> int:
        return len(self._table.names)


@dataclass(frozen=True)
class Table:
    """n rows, one per printed iteration, in the file's order.

    The rows stay in the parts that the runs hold. An array over all parts is made only when asked for, because a
    look at a big growing log needs few of them.
    """

    parts: tuple[Part, ...]

    def __len__(self) -> int:
        return sum(len(part) for part in self.parts)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    @property
    def names(self) -> list[str]:
        """The names of the columns, in the order in which they were first printed."""
        return list(dict.fromkeys(name for part in self.parts for name in part.columns))

    @cached_property
    def iteration(self) -> np.ndarray:
        """int64 (n)."""
        return _join([part.iteration for part in self.parts], np.int64)

    @cached_property
    def clock(self) -> np.ndarray:
        """int64 (n), microseconds since 1970 or NO_CLOCK."""
        return _join([part.clock for part in self.parts], np.int64)

    @cached_property
    def seconds(self) -> np.ndarray:
        """float64 (n), since the run's start; NaN without a clock."""
        return _join([_seconds(part) for part in self.parts])

    @property
    def values(self) -> Mapping[str, np.ndarray]:
        """Name -> float64 (n); NaN where nothing was printed, and where nan was: then its line is not 0."""
        return _Dense(self, "value", np.nan)

    @property
    def lines(self) -> Mapping[str, np.ndarray]:
        """Name -> int64 (n), the line of each value, from 1; 0 where not printed."""
        return _Dense(self, "line", 0)

    @property
    def offsets(self) -> Mapping[str, np.ndarray]:
        """Name -> int64 (n), the byte offset of each value's line."""
        return _Dense(self, "offset", 0)

    def to_pandas(self) -> pandas.DataFrame:
        """A DataFrame of iteration, seconds and the outputs. Raises `CaffeSplitError` if pandas is not installed."""
        try:
            import pandas
        except ImportError as error:
            raise CaffeSplitError("pandas is not installed; install it, or use the numpy columns") from error
        return pandas.DataFrame({"iteration": self.iteration, "seconds": self.seconds, **self.values})

    def printed(self, name: str) -> tuple[slice | np.ndarray, np.ndarray]:
        """(an index of the m rows in which `name` was printed, its values there: float64 (m))."""
        values = [part.columns[name].value for part in self.parts if name in part.columns]
        if sum(map(len, values)) == len(self):
            return slice(None), _join(values)
        bases = np.cumsum([0, *map(len, self.parts)])
        rows = [b + part.columns[name].row for b, part in zip(bases, self.parts) if name in part.columns]
        return _join(rows, np.int64), _join(values)


EMPTY = Table(())


def concatenate(tables: Iterable[Table]) -> Table:
    """The rows of several tables, one after another."""
    return Table(tuple(part for table in tables for part in table.parts if len(part)))


def _join(arrays: Sequence[np.ndarray], dtype: type = np.float64) -> np.ndarray:
    """The arrays one after another; a single one is not copied. dtype: of the result if there is none."""
    if len(arrays) == 1:
        return arrays[0]
    return np.concatenate(arrays) if arrays else np.empty(0, dtype)


def _seconds(part: Part) -> np.ndarray:
    unknown = (part.clock == NO_CLOCK) | (part.origin == NO_CLOCK)
    return np.where(unknown, np.nan, (part.clock - part.origin) / 1e6)
