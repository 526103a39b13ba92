"""Stretches of plain lines go into a run's tables as whole columns."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from caffe_split.trainlog.lines import NO_CLOCK, Clock
from caffe_split.trainlog.rows import OpenRun, Rows
from caffe_split.trainlog.scan import DISPLAY, RATE, TEST, TESTING, TRAIN, Lines

# Below this many lines numpy costs more than it saves.
FEWEST = 32


@dataclass
class Outputs:
    """Rows and values that a table is to get: all checked before any of it is put in."""

    rows: Rows
    iteration: np.ndarray  # of the new rows
    clock: np.ndarray
    columns: list[tuple[bytes, np.ndarray, np.ndarray]]  # name, row of each value, places of the lines


def backwards(run: OpenRun, lines: Lines, begin: int, end: int) -> int:
    """The first line in [begin, end) whose iteration is below the one before, which starts a run; else `end`."""
    place = begin + np.flatnonzero(_is(lines, begin, end, DISPLAY, RATE, TESTING))
    iteration = lines.iteration[place]
    falls = np.flatnonzero(iteration < np.concatenate([[run.last_iteration], iteration[:-1]]))
    return int(place[falls[0]]) if len(falls) else end


def take(run: OpenRun, clock: Clock, lines: Lines, begin: int, end: int, line: int, offset: int) -> bool:
    """Put the lines [begin, end), none of kind OTHER and none backwards, into the run's tables.

    line, offset: the number of the block's first line and where it stands in the file. False: a form that
    needs the parser's care (a row with a name twice); then nothing has changed.
    """
    outputs = _plan(run, lines, begin, end)
    if outputs is None:
        return False
    clocks = _clocks(clock, lines, begin, end)
    numbers = line + np.arange(len(lines.kind))
    offsets = offset + lines.start
    for kind, rows, name in ((DISPLAY, run.displays, b"loss"), (RATE, run.lr, b"lr")):
        place = begin + np.flatnonzero(lines.kind[begin:end] == kind)
        if len(place):
            row = len(rows) + np.arange(len(place))
            rows.start_many(lines.iteration[place], clocks[place - begin])
            rows.put_many(name, row, lines.value[place], numbers[place], offsets[place])
            timed = lines.has_speed[place]
            if kind == DISPLAY and timed.any():
                place = place[timed]
                rows.put_many(b"iter/s", row[timed], lines.speed[place], numbers[place], offsets[place])
    for table in outputs:
        table.rows.start_many(table.iteration, clocks[table.clock - begin])
        for name, row, place in table.columns:
            table.rows.put_many(name, row, lines.value[place], numbers[place], offsets[place])
    _advance(run, lines, begin, end)
    known = clocks[clocks != NO_CLOCK]
    if len(known):
        run.seen(int(numbers[end - 1]), int(known[0]))
        run.end = int(known[-1])
    run.last_line = int(numbers[end - 1])
    return True


def _is(lines: Lines, begin: int, end: int, *kinds: int) -> np.ndarray:
    kind = lines.kind[begin:end]
    found = kind == kinds[0]
    for other in kinds[1:]:
        found |= kind == other
    return found


def _plan(run: OpenRun, lines: Lines, begin: int, end: int) -> list[Outputs] | None:
    """What TRAIN and TEST lines add; `clock` of the result holds the places of the rows' first lines."""
    kind = lines.kind[begin:end]
    place = np.arange(begin, end)
    heads = np.where((kind == DISPLAY) | (kind == TESTING), place, -1)
    head = np.maximum.accumulate(heads)  # the display or test phase that each line belongs to; -1: the one at hand
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
            rows = run.tests[int(net)] = Rows()  # empty tables are left out of the run
        iteration = run.test[0] if run.test else None
        plan = _outputs(rows, lines, place[some], head[some], run.test_row, iteration)
        if plan is None:
            return None
        plans.append(plan)
    return plans


def _outputs(
    rows: Rows, lines: Lines, place: np.ndarray, head: np.ndarray, open_row: bool, iteration: int | None
) -> Outputs | None:
    fresh = np.concatenate([[head[0] >= 0 or not open_row], head[1:] != head[:-1]])
    row = len(rows) - 1 + np.cumsum(fresh)
    columns = []
    name = lines.name[place]
    names, first = np.unique(name, return_index=True)
    for which in names[np.argsort(first)]:
        mine = name == which
        text = lines.names[which]
        if rows.filled(text) > row[mine][0] or (np.diff(row[mine]) == 0).any():
            return None
        columns.append((text, row[mine], place[mine]))
    begun = head[fresh]
    iterations = np.where(begun >= 0, lines.iteration[begun], -1 if iteration is None else iteration)
    return Outputs(rows, iterations, place[fresh], columns)


def _clocks(clock: Clock, lines: Lines, begin: int, end: int) -> np.ndarray:
    """Microseconds since 1970 of each line, or NO_CLOCK."""
    date = lines.date[begin:end]
    changes = np.concatenate([[0], np.flatnonzero(np.diff(date)) + 1, [len(date)]])
    days = np.empty(len(date), np.int64)
    for first, last in zip(changes[:-1], changes[1:]):
        days[first:last] = clock.day(int(date[first]).to_bytes(8, "little").rstrip(b"\0"))
    return np.where(days == NO_CLOCK, NO_CLOCK, days + lines.micro[begin:end])


def _advance(run: OpenRun, lines: Lines, begin: int, end: int) -> None:
    """The state in which the next line finds the run."""
    kind = lines.kind[begin:end]
    numbered = np.flatnonzero(_is(lines, begin, end, DISPLAY, RATE, TESTING))
    if len(numbered):
        run.last_iteration = int(lines.iteration[begin + numbered[-1]])
    heads = np.flatnonzero((kind == DISPLAY) | (kind == TESTING))
    last = int(heads[-1]) if len(heads) else -1
    if last >= 0:
        iteration = int(lines.iteration[begin + last])
        run.train_row = run.test_row = False
        if kind[last] == DISPLAY:
            run.train_iteration, run.test = iteration, None
        else:
            run.train_iteration, run.test = None, (iteration, int(lines.net[begin + last]))
    rest = kind[last + 1 :]
    run.train_row |= run.train_iteration is not None and bool((rest == TRAIN).any())
    run.test_row |= run.test is not None and bool((rest == TEST).any())
