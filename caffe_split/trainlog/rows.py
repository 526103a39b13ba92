"""Tables under construction: rows are appended while the log is read, and can be had as numpy arrays at any time."""

from __future__ import annotations

import numpy as np

from caffe_split.trainlog.columns import EMPTY, Column, Growing, Part, Table
from caffe_split.trainlog.lines import NO_CLOCK
from caffe_split.trainlog.model import Event, Run


class _Column:
    __slots__ = ("lines", "offsets", "rows", "values")

    def __init__(self) -> None:
        self.rows, self.values = Growing(np.int64), Growing(np.float64)
        self.lines, self.offsets = Growing(np.int64), Growing(np.int64)

    def view(self) -> Column:
        return Column(self.rows.view(), self.values.view(), self.lines.view(), self.offsets.view())


class Rows:
    """A `Table` that grows; columns may appear late and stay empty in some rows."""

    def __init__(self) -> None:
        self.iteration = Growing(np.int64)
        self.clock = Growing(np.int64)
        self._columns: dict[bytes, _Column] = {}
        self._again: dict[bytes, int] = {}  # how often each name was repeated in the current row

    def __len__(self) -> int:
        return len(self.iteration)

    def start(self, iteration: int, clock: int) -> None:
        """Begin a row."""
        self.iteration.append(iteration)
        self.clock.append(clock)
        self._again = {}

    def put(self, name: bytes, value: float, line: int, offset: int) -> None:
        """Add a value to the current row.

        If the row has one of that name already (an output of several elements), the name becomes `name[1]`, ...
        """
        row = len(self.iteration) - 1
        column = self._column(name)
        while column.rows.last() == row:
            self._again[name] = self._again.get(name, 0) + 1
            column = self._column(b"%s[%d]" % (name, self._again[name]))
        column.rows.append(row)
        column.values.append(value)
        column.lines.append(line)
        column.offsets.append(offset)

    def start_many(self, iteration: np.ndarray, clock: np.ndarray) -> None:
        """Begin several rows; iteration and clock: int64 (n)."""
        self.iteration.extend(iteration)
        self.clock.extend(clock)
        self._again = {}

    def filled(self, name: bytes) -> int:
        """The number of rows up to the last one that has a value in this column."""
        column = self._columns.get(name)
        return 0 if column is None else column.rows.last() + 1

    def put_many(self, name: bytes, row: np.ndarray, value: np.ndarray, line: np.ndarray, offset: np.ndarray) -> None:
        """Add values to rows that have begun: row is ascending and not below `filled(name)`."""
        column = self._column(name)
        column.rows.extend(row)
        column.values.extend(value)
        column.lines.extend(line)
        column.offsets.extend(offset)

    def table(self, start: int) -> Table:
        """What has been read up to now, without a copy; seconds count from `start` (microseconds)."""
        if not len(self):
            return EMPTY
        columns = {name.decode("utf-8", "backslashreplace"): column.view() for name, column in self._columns.items()}
        return Table((Part(self.iteration.view(), self.clock.view(), start, columns),))

    def _column(self, name: bytes) -> _Column:
        column = self._columns.get(name)
        if column is None:
            column = self._columns[name] = _Column()
        return column


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
        """Whether it is past its start, so that another start line belongs to the next run."""
        over = any(event.kind in ("done", "fatal") for event in self.events)
        return self.solving or self.last_iteration >= 0 or len(self.batches) > 0 or bool(self.results) or over

    @property
    def holds_something(self) -> bool:
        """Whether it holds any message of Caffe."""
        return bool(self.events or self.results) or self.last_iteration >= 0 or len(self.batches) > 0

    def seen(self, line: int, clock: int) -> None:
        """Note that a message of this run stands on that line, with that clock."""
        self.last_line = line
        if clock != NO_CLOCK:
            if self.start == NO_CLOCK:
                self.start = clock
            self.end = clock

    def as_run(self) -> Run:
        """What it holds now, as a value."""
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
