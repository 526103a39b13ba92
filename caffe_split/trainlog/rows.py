"""Tables under construction: rows are appended while the log is read, and can be had as numpy arrays at any time."""

from __future__ import annotations

import numpy as np

from caffe_split.trainlog.columns import EMPTY, Column, Part, Table, Values
from caffe_split.trainlog.lines import NO_CLOCK
from caffe_split.trainlog.messages import text
from caffe_split.trainlog.packed import Growing
from caffe_split.trainlog.run import Event, Run

# Single values that wait for being put into their columns.
WAITING = 1 << 14
# A table with more columns than this keeps its values unsorted until it is asked for.
FEW = 64


class _Column:
    __slots__ = ("lines", "offsets", "rows", "values")

    def __init__(self) -> None:
        self.rows, self.values = Growing(np.int64), Growing(np.float64)
        self.lines, self.offsets = Growing(np.int64), Growing(np.int64)

    def extend(self, values: Values) -> None:
        self.rows.extend(values.row)
        self.values.extend(values.value)
        self.lines.extend(values.line)
        self.offsets.extend(values.offset)

    def view(self) -> Column:
        return Column(self.rows.series(), self.values.series(), self.lines.series(), self.offsets.series())


class Rows:
    """A `Table` that grows; columns may appear late and stay empty in some rows.

    A net may print thousands of outputs at each display, a few values each in the whole log. A table with so many
    columns keeps all values in one place, in the order of their lines, and sorts them when it is asked for.
    """

    def __init__(self) -> None:
        self.iteration = Growing(np.int64)
        self.clock = Growing(np.int64)
        self._places: dict[bytes, int] = {}  # of each name's column
        self._columns: list[_Column] = []  # none if there are many
        self._used: dict[bytes, int] = {}  # the names in the current row, and how often each was repeated
        self._weights: dict[bytes, int] = {}  # the signs of the loss weights that were printed
        self._singles: list[tuple[int, int, float, int, int]] = []  # column, row, value, line, offset
        self._many: list[tuple[np.ndarray, Values]] = []  # the column of each value, and the values
        self._sorted: dict[str, Column] | None = None  # what `table` made of many columns

    def __len__(self) -> int:
        return len(self.iteration)

    def start(self, iteration: int, clock: int) -> None:
        """Begin a row."""
        self.iteration.append(iteration)
        self.clock.append(clock)
        self._used = {}

    def put(self, name: bytes, value: float, line: int, offset: int, weight: int = 0) -> None:
        """Add a value to the current row; weight: the sign of the loss weight that was printed with it, or 0.

        If the row has one of that name already (an output of several elements), the name becomes `name[1]`, ...
        """
        if name in self._used:
            name = self._again(name)
        self._used[name] = 0
        if weight:
            self.weigh({name: weight})
        self._singles.append((self._place(name), len(self.iteration) - 1, value, line, offset))
        if len(self._singles) >= WAITING:
            self._collect()

    def start_many(self, iteration: np.ndarray, clock: np.ndarray) -> None:
        """Begin several rows; iteration and clock: int64 (n)."""
        if len(iteration):
            self.iteration.extend(iteration)
            self.clock.extend(clock)
            self._used = {}

    @property
    def used(self) -> dict[bytes, int]:
        """The names in the current row, and how often each was repeated."""
        return self._used

    def put_many(self, name: bytes, values: Values) -> None:
        """Add values of one column, to rows that have begun: they ascend, and have none of this column yet."""
        self._collect()
        self._columns[self._place(name)].extend(values)

    def put_all(self, names: list[bytes], which: np.ndarray, values: Values, used: dict[bytes, int]) -> None:
        """Add values of many columns; which: int64 (n), an index into `names`. used: as the property is afterwards."""
        known = list(map(self._places.get, names))
        places = np.array([self._place(name) for name in names] if None in known else known)
        self._collect()
        self._add(places[which], values)
        self._used = used

    def weigh(self, weights: dict[bytes, int]) -> None:
        """Note the signs of loss weights; of both signs of one name the negative one counts."""
        for name, weight in weights.items():
            self._weights[name] = min(weight, self._weights.get(name, weight))

    def table(self, start: int) -> Table:
        """What has been read up to now, without a copy; seconds count from `start` (microseconds)."""
        if not len(self):
            return EMPTY
        self._collect()
        columns = (
            self._sort() if self._is_wide else {text(n): self._columns[at].view() for n, at in self._places.items()}
        )
        weights = {text(name): weight for name, weight in self._weights.items()}
        return Table((Part(self.iteration.series(), self.clock.series(), start, columns, weights),))

    @property
    def _is_wide(self) -> bool:
        return len(self._places) > FEW

    def _place(self, name: bytes) -> int:
        place = self._places.get(name)
        if place is None:
            place = self._places[name] = len(self._places)
            if not self._is_wide:
                self._columns.append(_Column())
            elif self._columns:
                earlier = [(np.full(len(c.rows), at), c.view().all()) for at, c in enumerate(self._columns)]
                self._columns, self._many = [], earlier
        return place

    def _again(self, name: bytes) -> bytes:
        """The name of the next value of this name in the row."""
        while True:
            self._used[name] += 1
            found = b"%s[%d]" % (name, self._used[name])
            if found not in self._used:
                return found

    def _collect(self) -> None:
        """The single values go where the others are."""
        if self._singles:
            place, row, value, line, offset = zip(*self._singles)
            places, rows, lines, offsets = (np.array(column, np.int64) for column in (place, row, line, offset))
            self._singles = []
            self._add(places, Values(rows, np.array(value, np.float64), lines, offsets))

    def _add(self, place: np.ndarray, values: Values) -> None:
        if self._is_wide:
            self._many.append((place, values))
            self._sorted = None
            return
        present = np.flatnonzero(np.bincount(place)).tolist()
        for at in present:
            self._columns[at].extend(values.some(place == at) if len(present) > 1 else values)

    def _sort(self) -> dict[str, Column]:
        """All values in their columns, if these are many."""
        if self._sorted is None:
            place = np.concatenate([places for places, _ in self._many])
            values = Values(*map(np.concatenate, zip(*(values for _, values in self._many))))
            self._many = [(place, values)]
            order = np.argsort(place, kind="stable")
            borders = np.searchsorted(place[order], np.arange(len(self._places) + 1)).tolist()
            values = values.some(order)
            self._sorted = {
                text(name): Column(*values.some(slice(borders[at], borders[at + 1])))
                for name, at in self._places.items()
            }
        return self._sorted


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
