"""Tables of numbers: sparse columns that grow without being copied, dense numpy columns on request."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from caffe_split.trainlog.lines import NO_CLOCK


class Growing:
    """A numpy column that grows at its end. `view` stays valid, and costs nothing, while it does."""

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
        """One value more."""
        self._room(1)
        self._data[self._size] = value
        self._size += 1

    def extend(self, values: np.ndarray) -> None:
        """Several values more."""
        self._room(len(values))
        self._data[self._size : self._size + len(values)] = values
        self._size += len(values)

    def last(self) -> int:
        """The last of integer values, or -1."""
        return int(self._data[self._size - 1]) if self._size else -1

    def replace_last(self, value: float) -> None:
        """Another last value."""
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


class _Dense(Mapping[str, np.ndarray]):
    """One field of all columns, each with an entry in every row; laid out when asked for."""

    def __init__(self, rows: int, columns: dict[str, Column], field: str, missing: float) -> None:
        self._rows, self._columns, self._field, self._missing = rows, columns, field, missing

    def __getitem__(self, name: str) -> np.ndarray:
        column = self._columns[name]
        entries: np.ndarray = getattr(column, self._field)
        if len(entries) == self._rows:
            return entries
        dense: np.ndarray = np.full(self._rows, self._missing, entries.dtype)
        dense[column.row] = entries
        return dense

    def __iter__(self) -> Iterator[str]:
        return iter(self._columns)

    def __len__(self) -> int:
        return len(self._columns)


@dataclass(frozen=True)
class Table:
    """n rows, one an iteration that was printed, in the file's order.

    iteration: int64 (n). clock: int64 (n), microseconds since 1970 or NO_CLOCK. origin: microseconds from
    which the seconds count. columns: what was printed, by name; `values`, `lines` and `offsets` lay it out.
    """

    iteration: np.ndarray
    clock: np.ndarray
    origin: np.ndarray | int
    columns: dict[str, Column]

    def __len__(self) -> int:
        return len(self.iteration)

    def __getitem__(self, name: str) -> np.ndarray:
        return self.values[name]

    @property
    def names(self) -> list[str]:
        """The columns, in the order in which they were first printed."""
        return list(self.columns)

    @cached_property
    def seconds(self) -> np.ndarray:
        """float64 (n), since the run's start; NaN without a clock."""
        unknown = (self.clock == NO_CLOCK) | (np.asarray(self.origin) == NO_CLOCK)
        return np.where(unknown, np.nan, (self.clock - self.origin) / 1e6)

    @property
    def values(self) -> Mapping[str, np.ndarray]:
        """Name -> float64 (n), NaN where not printed, or printed as nan: then its line is not 0."""
        return _Dense(len(self), self.columns, "value", np.nan)

    @property
    def lines(self) -> Mapping[str, np.ndarray]:
        """Name -> int64 (n), the line of each value, from 1; 0 where not printed."""
        return _Dense(len(self), self.columns, "line", 0)

    @property
    def offsets(self) -> Mapping[str, np.ndarray]:
        """Name -> int64 (n), the byte offset of each value's line."""
        return _Dense(len(self), self.columns, "offset", 0)


EMPTY = Table(np.empty(0, np.int64), np.empty(0, np.int64), 0, {})


def concatenate(tables: list[Table], masks: list[np.ndarray] | None = None, shifts: list[float] | None = None) -> Table:
    """The rows (under the masks) of several tables, one after another; `shifts`: seconds to add to each table's."""
    keep = masks or [np.ones(len(table), bool) for table in tables]
    add = shifts or [0.0] * len(tables)
    some = [k for k, (table, mask) in enumerate(zip(tables, keep)) if len(table) and mask.any()]
    if not some:
        return EMPTY
    if len(some) == 1 and keep[some[0]].all() and not add[some[0]]:
        return tables[some[0]]
    parts: dict[str, list[Column]] = {}
    origins = []
    base = 0
    for k in some:
        table, mask = tables[k], keep[k]
        place = base - 1 + np.cumsum(mask)
        for name, column in table.columns.items():
            inside = mask[column.row]
            fields = (column.value[inside], column.line[inside], column.offset[inside])
            parts.setdefault(name, []).append(Column(place[column.row[inside]], *fields))
        origin = np.broadcast_to(np.asarray(table.origin, np.int64), len(table))[mask]
        origins.append(np.where(origin == NO_CLOCK, NO_CLOCK, origin - round(add[k] * 1e6)))
        base += int(mask.sum())

    def join(columns: list[Column]) -> Column:
        pick = ("row", "value", "line", "offset")
        return Column(*(np.concatenate([getattr(column, field) for column in columns]) for field in pick))

    return Table(
        iteration=np.concatenate([tables[k].iteration[keep[k]] for k in some]),
        clock=np.concatenate([tables[k].clock[keep[k]] for k in some]),
        origin=np.concatenate(origins),
        columns={name: join(columns) for name, columns in parts.items()},
    )
