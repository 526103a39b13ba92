"""Tables under construction: rows are appended while the log is read, numpy arrays come out at any time."""

from __future__ import annotations

from array import array

import numpy as np

from caffe_split.trainlog.lines import NO_CLOCK
from caffe_split.trainlog.model import EMPTY, Event, Run, Table


class _Column:
    __slots__ = ("lines", "offsets", "values")

    def __init__(self) -> None:
        self.values = array("d")
        self.lines = array("q")
        self.offsets = array("q")


class Rows:
    """A `Table` that grows; columns may appear late and stay empty in some rows."""

    def __init__(self) -> None:
        self.iteration = array("q")
        self.clock = array("q")
        self._columns: dict[bytes, _Column] = {}

    def __len__(self) -> int:
        return len(self.iteration)

    def start(self, iteration: int, clock: int) -> None:
        """Begin a row."""
        self.iteration.append(iteration)
        self.clock.append(clock)

    def put(self, name: bytes, value: float, line: int, offset: int) -> None:
        """One value of the current row. A name that the row has already (an output of several elements)
        goes on as `name[1]`, `name[2]`, ..."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _Column()
        missing = len(self.iteration) - 1 - len(column.values)
        if missing < 0:
            self.put(_next_element(name), value, line, offset)
            return
        if missing:
            column.values.extend([float("nan")] * missing)
            column.lines.extend([0] * missing)
            column.offsets.extend([0] * missing)
        column.values.append(value)
        column.lines.append(line)
        column.offsets.append(offset)

    def start_many(self, iteration: np.ndarray, clock: np.ndarray) -> None:
        """Begin rows; both int64."""
        self.iteration.frombytes(np.ascontiguousarray(iteration, np.int64).view(np.uint8).data)
        self.clock.frombytes(np.ascontiguousarray(clock, np.int64).view(np.uint8).data)

    def filled(self, name: bytes) -> int:
        """Up to which row the column has been written."""
        column = self._columns.get(name)
        return 0 if column is None else len(column.values)

    def put_many(self, name: bytes, row: np.ndarray, value: np.ndarray, line: np.ndarray, offset: np.ndarray) -> None:
        """Values of rows that have begun, ascending and beyond `filled(name)`."""
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _Column()
        have = len(column.values)
        size = int(row[-1]) + 1 - have
        for target, part, missing in (
            (column.values, value, np.nan),
            (column.lines, line, 0),
            (column.offsets, offset, 0),
        ):
            whole = part
            if len(part) < size:
                whole = np.full(size, missing, dtype=part.dtype)
                whole[row - have] = part
            target.frombytes(whole.view(np.uint8).data)

    def table(self, start: int) -> Table:
        """What has been read up to now; seconds count from `start` (microseconds)."""
        if not self.iteration:
            return EMPTY
        rows = len(self.iteration)
        clock = np.array(self.clock, dtype=np.int64)
        seconds = (clock - start) / 1e6
        seconds[(clock == NO_CLOCK) | (start == NO_CLOCK)] = np.nan
        names = {key: key.decode("utf-8", "backslashreplace") for key in self._columns}

        def full(values: array[float] | array[int], missing: float, dtype: type) -> np.ndarray:
            out: np.ndarray = np.full(rows, missing, dtype=dtype)
            out[: len(values)] = values
            return out

        return Table(
            iteration=np.array(self.iteration, dtype=np.int64),
            clock=clock,
            seconds=seconds,
            values={names[key]: full(c.values, np.nan, np.float64) for key, c in self._columns.items()},
            lines={names[key]: full(c.lines, 0, np.int64) for key, c in self._columns.items()},
            offsets={names[key]: full(c.offsets, 0, np.int64) for key, c in self._columns.items()},
        )


def _next_element(name: bytes) -> bytes:
    stem, bracket, index = name.rpartition(b"[")
    if bracket and index[:-1].isdigit() and index.endswith(b"]"):
        return b"%s[%d]" % (stem, int(index[:-1]) + 1)
    return name + b"[1]"


class OpenRun:
    """A run that may still grow."""

    def __init__(self, line: int) -> None:
        self.first_line = self.last_line = line
        self.start = self.end = NO_CLOCK
        self.solving = False
        self.last_iteration = -1
        # Where values go. A row starts with its first value, so that a phase cut short leaves none.
        self.train_iteration: int | None = None
        self.test: tuple[int, int] | None = None  # iteration, net
        self.train_row = self.test_row = self.loss_first = False
        self.displays, self.train, self.lr = Rows(), Rows(), Rows()
        self.clips, self.batches = Rows(), Rows()
        self.tests: dict[int, Rows] = {}
        self.results: dict[str, float] = {}
        self.events: list[Event] = []

    @property
    def begun(self) -> bool:
        """Is it past its start, so that a further start line belongs to the next run?"""
        over = any(event.kind in ("done", "fatal") for event in self.events)
        return self.solving or self.last_iteration >= 0 or len(self.batches) > 0 or bool(self.results) or over

    @property
    def holds_something(self) -> bool:
        """Was there any message of Caffe?"""
        return bool(self.events or self.results) or self.last_iteration >= 0 or len(self.batches) > 0

    def seen(self, line: int, clock: int) -> None:
        """A message of this run stands on that line."""
        self.last_line = line
        if clock != NO_CLOCK:
            if self.start == NO_CLOCK:
                self.start = clock
            self.end = clock

    def close(self) -> Run:
        """Its state now, as a value."""
        start = self.start
        return Run(
            first_line=self.first_line,
            last_line=self.last_line,
            start=start,
            end=self.end,
            displays=self.displays.table(start),
            train=self.train.table(start),
            lr=self.lr.table(start),
            clips=self.clips.table(start),
            tests={net: rows.table(start) for net, rows in sorted(self.tests.items()) if len(rows)},
            batches=self.batches.table(start),
            results=dict(self.results),
            events=list(self.events),
        )
