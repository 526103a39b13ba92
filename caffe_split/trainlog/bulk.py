"""Many plain lines at once: they go into the tables of a run as whole columns."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from caffe_split.trainlog.columns import Values
from caffe_split.trainlog.lines import NO_CLOCK, Clock
from caffe_split.trainlog.rows import OpenRun, Rows
from caffe_split.trainlog.scan import DISPLAY, RATE, TEST, TESTING, TRAIN, Lines

# Below this many lines numpy costs more than it saves.
FEWEST_LINES = 32
# Up to this many names, a look at each costs less than sorting them.
FEW_NAMES = 8


@dataclass(frozen=True)
class Stretch:
    """The lines [begin, end) of a block, none of kind OTHER.

    first_line: the number, counted from 1, of the block's first line. block_offset: where the block stands in the file.
    """

    lines: Lines
    begin: int
    end: int
    first_line: int
    block_offset: int

    def until(self, end: int) -> Stretch:
        """The same stretch up to the line `end`."""
        return replace(self, end=end)

    @property
    def kind(self) -> np.ndarray:
        """The kind of each line."""
        return self.lines.kind[self.begin : self.end]

    def places(self, *kinds: int) -> np.ndarray:
        """The places, in the block, of the lines of these kinds."""
        return self.begin + np.flatnonzero(_is(self.kind, *kinds))

    def where(self, place: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """(line number, byte offset in the file) of the lines at these places of the block."""
        return self.first_line + place, self.block_offset + self.lines.start[place]


@dataclass
class Outputs:
    """New rows and values of one table. All tables are planned before the first one is changed.

    iteration: of each new row. first: the place of each new row's first line. row, place, which: of each value its row,
    the place of its line, and an index into `names`. used: the names in the last row, as `Rows.used` has them.
    weights: the signs of the loss weights that were printed, by name.
    """

    rows: Rows
    iteration: np.ndarray
    first: np.ndarray
    row: np.ndarray
    place: np.ndarray
    which: np.ndarray
    names: list[bytes]
    used: dict[bytes, int]
    weights: dict[bytes, int]


def backwards(run: OpenRun, stretch: Stretch) -> int:
    """The place of the first line whose iteration is below the one before: a new run starts there. Else the end."""
    place = stretch.places(DISPLAY, RATE, TESTING)
    iteration = stretch.lines.iteration[place]
    falls = np.flatnonzero(iteration < np.concatenate([[run.last_iteration], iteration[:-1]]))
    return int(place[falls[0]]) if len(falls) else stretch.end


def take(run: OpenRun, clock: Clock, stretch: Stretch) -> bool:
    """Put a stretch in which no iteration goes backwards into the tables of the run.

    False: the lines have a form that must be read one by one (names as repeated ones get them); nothing has changed.
    """
    outputs = _plan(run, stretch)
    if outputs is None:
        return False
    lines, begin = stretch.lines, stretch.begin
    clocks = _clocks(clock, stretch)
    for kind, rows, name in ((DISPLAY, run.displays, b"loss"), (RATE, run.lr, b"lr")):
        place = stretch.places(kind)
        if len(place):
            row = len(rows) + np.arange(len(place))
            rows.start_many(lines.iteration[place], clocks[place - begin])
            rows.put_many(name, Values(row, lines.value[place], *stretch.where(place)))
            timed = lines.has_speed[place]
            if kind == DISPLAY and timed.any():
                place = place[timed]
                rows.put_many(b"iter/s", Values(row[timed], lines.speed[place], *stretch.where(place)))
    for table in outputs:
        table.rows.start_many(table.iteration, clocks[table.first - begin])
        place = table.place
        values = Values(table.row, lines.value[place], *stretch.where(place))
        table.rows.put_all(table.names, table.which, values, table.used)
        table.rows.weigh(table.weights)
    _advance(run, stretch)
    last_line = stretch.first_line + stretch.end - 1
    known = clocks[clocks != NO_CLOCK]
    if len(known):
        run.seen(last_line, int(known[0]))
        run.end = int(known[-1])
    run.last_line = last_line
    return True


def _is(kind: np.ndarray, *kinds: int) -> np.ndarray:
    found: np.ndarray = kind == kinds[0]
    for other in kinds[1:]:
        found |= kind == other
    return found


def _plan(run: OpenRun, stretch: Stretch) -> list[Outputs] | None:
    """What the TRAIN and TEST lines add; None as `take` gives False."""
    lines, kind = stretch.lines, stretch.kind
    place = np.arange(stretch.begin, stretch.end)
    heads = np.where(_is(kind, DISPLAY, TESTING), place, -1)
    # The display or test phase to which each line belongs; -1: the one that was open before the stretch.
    head = np.maximum.accumulate(heads)
    before = head < 0
    trains = np.where(before, run.train_iteration is not None, lines.kind[head] == DISPLAY)
    tests = np.where(before, run.test is not None, lines.kind[head] == TESTING)
    plans = []
    mine = (kind == TRAIN) & trains
    if mine.any():
        plan = _outputs(run.train, lines, place[mine], head[mine], run.train_row, run.train_iteration)
        if plan is None:
            return None
        plans.append(plan)
    mine = (kind == TEST) & tests
    nets = np.where(before, run.test[1] if run.test else -1, lines.net[head])
    for net in np.unique(nets[mine]):
        some = mine & (nets == net)
        rows = run.tests.get(int(net))
        if rows is None:
            rows = run.tests[int(net)] = Rows()  # a table that stays empty is left out of the run
        iteration = run.test[0] if run.test else None
        plan = _outputs(rows, lines, place[some], head[some], run.test_row, iteration)
        if plan is None:
            return None
        plans.append(plan)
    return plans


def _outputs(
    rows: Rows, lines: Lines, place: np.ndarray, head: np.ndarray, open_row: bool, iteration: int | None
) -> Outputs | None:
    """What the lines at these places, with these heads, add to a table; None as `take` gives False.

    open_row: whether the table's last row can still get values. iteration: that of the head -1.
    """
    fresh = np.concatenate([[head[0] >= 0 or not open_row], head[1:] != head[:-1]])
    row = len(rows) - 1 + np.cumsum(fresh)
    begun = head[fresh]
    iterations = np.where(begun >= 0, lines.iteration[begun], -1 if iteration is None else iteration)
    before = {} if fresh[0] else rows.used
    named = _names(lines, row, lines.name[place], before)
    if named is None:
        return None
    which, names, used = named
    weights = {}
    sign = lines.weight[place]
    for weight in (1, -1):  # where a name has both, the negative one counts, as in `Rows.weigh`
        weights.update(dict.fromkeys(_chosen(names, np.flatnonzero(np.bincount(which[sign == weight]))), weight))
    return Outputs(rows, iterations, place[fresh], row, place, which, names, used, weights)


def _names(
    lines: Lines, row: np.ndarray, name: np.ndarray, before: dict[bytes, int]
) -> tuple[np.ndarray, list[bytes], dict[bytes, int]] | None:
    """(which, names, used) of `Outputs`, for values in these rows with these names (indices into `lines.names`).

    before: the names that the first row has already. None: a name looks like that of a repeated one.
    """
    present, firsts = _present(name, len(lines.names))
    texts = _chosen(lines.names, present)
    started = row == (row[0] if before else -1)  # the values of the row that has names already
    again = np.zeros(len(row), np.int64)
    if before or len(present) > FEW_NAMES or any((np.diff(row[name == place]) == 0).any() for place in present):
        again = _again(row, name)
        if before and not before.keys().isdisjoint(_chosen(lines.names, name[started])):
            taken = np.array([before.get(text, -1) + 1 for text in lines.names])
            again[started] += taken[name[started]]
        if b"]\n" in b"\n".join([*texts, b""]):  # some name ends so
            return None
    repeated = bool(again.any())
    pairs = again * len(lines.names) + name
    if repeated:
        present, firsts = _present(pairs, int(pairs.max()) + 1)
    order = np.argsort(firsts)
    index = np.empty(int(present.max()) + 1, np.int64)
    index[present[order]] = np.arange(len(present))
    names = _chosen(lines.names, present[order] % len(lines.names))
    if repeated:
        names = list(map(_numbered, names, (present[order] // len(lines.names)).tolist()))
    which = index[pairs]
    if before and not before.keys().isdisjoint(_chosen(names, which[started])):
        return None
    last = row == row[-1]
    used = dict(before) if row[-1] == row[0] else {}
    used.update(dict.fromkeys(_chosen(names, which[last]), 0))
    if repeated:
        used.update(zip(_chosen(lines.names, name[last]), again[last].tolist()))
    return which, names, used


def _chosen(texts: list[bytes], which: np.ndarray) -> list[bytes]:
    """The texts at these places of the list."""
    return list(map(texts.__getitem__, which.tolist()))


def _present(which: np.ndarray, count: int) -> tuple[np.ndarray, np.ndarray]:
    """(the numbers below `count` that occur, ascending; where each stands first)."""
    first = np.full(count, -1)
    first[which[::-1]] = np.arange(len(which))[::-1]
    present = np.flatnonzero(first >= 0)
    return present, first[present]


def _again(row: np.ndarray, name: np.ndarray) -> np.ndarray:
    """How many values of the same name each row has before each value."""
    order = np.lexsort((name, row))  # stable: equal ones stay in the order of their lines
    new = np.concatenate([[True], (np.diff(row[order]) != 0) | (np.diff(name[order]) != 0)])
    again = np.empty(len(row), np.int64)
    again[order] = np.arange(len(row)) - np.flatnonzero(new)[np.cumsum(new) - 1]
    return again


def _numbered(name: bytes, again: int) -> bytes:
    return b"%s[%d]" % (name, again) if again else name


def _clocks(clock: Clock, stretch: Stretch) -> np.ndarray:
    """Microseconds since 1970 of each line, or NO_CLOCK."""
    date = stretch.lines.date[stretch.begin : stretch.end]
    changes = np.concatenate([[0], np.flatnonzero(np.diff(date)) + 1, [len(date)]])
    days = np.empty(len(date), np.int64)
    for first, last in zip(changes[:-1], changes[1:]):
        days[first:last] = clock.day(int(date[first]).to_bytes(8, "little").rstrip(b"\0"))
    return np.where(days == NO_CLOCK, NO_CLOCK, days + stretch.lines.micro[stretch.begin : stretch.end])


def _advance(run: OpenRun, stretch: Stretch) -> None:
    """Leave the run in the state in which the line after the stretch must find it."""
    lines, kind = stretch.lines, stretch.kind
    numbered = stretch.places(DISPLAY, RATE, TESTING)
    if len(numbered):
        run.last_iteration = int(lines.iteration[numbered[-1]])
    heads = stretch.places(DISPLAY, TESTING)
    last = int(heads[-1]) if len(heads) else -1
    if last >= 0:
        iteration = int(lines.iteration[last])
        run.train_row = run.test_row = False
        if lines.kind[last] == DISPLAY:
            run.train_iteration, run.test = iteration, None
        else:
            run.train_iteration, run.test = None, (iteration, int(lines.net[last]))
    rest = kind[last + 1 - stretch.begin :] if last >= 0 else kind
    run.train_row |= run.train_iteration is not None and bool((rest == TRAIN).any())
    run.test_row |= run.test is not None and bool((rest == TEST).any())
