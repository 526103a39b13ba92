"""Tables of numbers: sparse packed columns, dense numpy columns on request."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple, Union

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog.lines import NO_CLOCK
from caffe_split.trainlog.packed import Series

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]


class Values(NamedTuple):
    """n values. row: int64 (n), ascending. value: float64 (n). line, offset: int64 (n), where they stand."""

    row: np.ndarray
    value: np.ndarray
    line: np.ndarray
    offset: np.ndarray

    def some(self, which: np.ndarray | slice) -> Values:
        """Those that an index chooses."""
        return Values(self.row[which], self.value[which], self.line[which], self.offset[which])


Numbers = Union[Series, np.ndarray]


def _array(numbers: Numbers) -> np.ndarray:
    return numbers.array() if isinstance(numbers, Series) else numbers


@dataclass(frozen=True)
class Column:
    """m values of a table, each field an array or packed, to be unpacked when it is asked for."""

    rows: Numbers
    values: Numbers
    lines: Numbers
    offsets: Numbers

    def __len__(self) -> int:
        return len(self.rows)

    @property
    def row(self) -> np.ndarray:
        """The row of each value: int64 (m), ascending."""
        return _array(self.rows)

    @property
    def value(self) -> np.ndarray:
        """float64 (m)."""
        return _array(self.values)

    @property
    def line(self) -> np.ndarray:
        """The number of each value's line: int64 (m)."""
        return _array(self.lines)

    @property
    def offset(self) -> np.ndarray:
        """The place of each value's line: int64 (m)."""
        return _array(self.offsets)

    def all(self) -> Values:
        """The column as values."""
        return Values(self.row, self.value, self.line, self.offset)

    def head(self, rows: int) -> Column:
        """Its values in the first `rows` rows; no copy."""
        stop = int(np.searchsorted(self.row, rows))
        fields = (self.rows, self.values, self.lines, self.offsets)
        return Column(*(field.head(stop) if isinstance(field, Series) else field[:stop] for field in fields))


@dataclass(frozen=True)
class Part:
    """n rows of one run. iterations: int64 (n). clocks: int64 (n), microseconds since 1970 or NO_CLOCK.

    origin: microseconds from which the seconds count, or NO_CLOCK. columns: what was printed, by name. weights: the
    signs of the loss weights that were printed, by name.
    """

    iterations: Series
    clocks: Series
    origin: int
    columns: dict[str, Column]
    weights: dict[str, int] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.iterations)

    @property
    def iteration(self) -> np.ndarray:
        """int64 (n)."""
        return self.iterations.array()

    @property
    def clock(self) -> np.ndarray:
        """int64 (n)."""
        return self.clocks.array()

    def before(self, stop: int) -> int:
        """How many rows have an iteration below `stop`. Within a run iterations never go back."""
        if not len(self) or self.iterations.ends()[1] < stop:
            return len(self)
        return int(np.searchsorted(self.iteration, stop))

    def head(self, rows: int) -> Part:
        """The first `rows` rows; no copy."""
        if rows >= len(self):
            return self
        columns = {name: column.head(rows) for name, column in self.columns.items()}
        return Part(self.iterations.head(rows), self.clocks.head(rows), self.origin, columns, self.weights)

    def later(self, seconds: float) -> Part:
        """The same rows, `seconds` later in the training."""
        origin = self.origin if self.origin == NO_CLOCK else self.origin - round(seconds * 1e6)
        return Part(self.iterations, self.clocks, origin, self.columns, self.weights)


class _Dense(Mapping[str, np.ndarray]):
    """One field of all columns, as arrays with an entry per row, which are made when asked for."""

    def __init__(self, table: Table, field: str, missing: float) -> None:
        self._table, self._field, self._missing = table, field, missing

    def __getitem__(self, name: str) -> np.ndarray:
        if not any(name in part.columns for part in self._table.parts):
            raise KeyError(name)
        return _join([self._lay_out(part, name) for part in self._table.parts])

    def _lay_out(self, part: Part, name: str) -> np.ndarray:
        column = part.columns.get(name)
        if column is None:
            return np.full(len(part), self._missing)
        entries: np.ndarray = getattr(column, self._field)
        if len(entries) == len(part):
            return entries
        dense = np.full(len(part), self._missing, entries.dtype)
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

    @property
    def weights(self) -> dict[str, int]:
        """Of each output with a loss weight its sign, as printed: 1 or -1."""
        found: dict[str, int] = {}
        for part in self.parts:
            for name, weight in part.weights.items():
                found[name] = min(weight, found.get(name, weight))
        return found

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
    clock = part.clock
    unknown = (clock == NO_CLOCK) | (part.origin == NO_CLOCK)
    return np.where(unknown, np.nan, (clock - part.origin) / 1e6)
