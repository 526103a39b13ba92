"""A log's tables for other programs: BVLC's CSV files, JSON, pandas."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import numpy as np

from caffe_split import jsontext
from caffe_split.files import PathLike, check_ours, make_folder, write_atomic
from caffe_split.trainlog.columns import Table, concatenate
from caffe_split.trainlog.lines import NO_CLOCK
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.run import Event


def bvlc_table(log: TrainingLog, kind: str, net: int = 0) -> tuple[list[str], list[list[object]]]:
    """(names, rows) as BVLC's parse_log.py lays them out; kind: train or tests (of `net`).

    Columns: NumIters, Seconds since the first solver began, LearningRate, then the outputs. A name that is printed
    several times has a column each (`a`, `a[1]`, ...), of which parse_log.py keeps one, not always the same. Rows: all
    rows of all runs, in the file's order; an incomplete last row is left out. The learning rate is the last one printed
    before the row, so at a display it is that of the display before; the first row has that of the second. Unlike
    parse_log.py, a table of one row is written, and so are nan and inf.
    """
    if kind == "tests":
        table = concatenate([run.tests[net] for run in log.runs if net in run.tests])
    else:
        table = concatenate([run.train for run in log.runs])
    outputs = [name for name in table.names if name != "Test loss"]
    if not len(table) or not outputs:
        return [], []
    bases = np.cumsum([0, *map(len, table.parts)]).tolist()
    rows, lines, cells = [], [], []
    for name in outputs:
        column: list[object] = []
        for base, part in zip(bases, table.parts):
            found = part.columns.get(name)
            if found is None:
                column += [""] * len(part)
                continue
            rows.append(found.row + base if base else found.row)
            lines.append(found.line)
            values = found.value.tolist()
            if len(values) < len(part):
                printed, values = values, [""] * len(part)
                for row, value in zip(found.row.tolist(), printed):
                    values[row] = value
            column += values
        cells.append(column)
    first_line = np.full(len(table), np.iinfo(np.int64).max)
    np.minimum.at(first_line, np.concatenate(rows), np.concatenate(lines))
    columns: list[list[object]] = [
        [float(i) for i in table.iteration],
        _seconds(log, table),
        _rates(log, first_line),
    ]
    if len(table) > 1:
        columns[2][0] = columns[2][1]
    written = [list(row) for row in zip(*columns, *cells)]
    if len(written) > 1 and "" in written[-1] and "" not in written[0]:
        written.pop()
    return ["NumIters", "Seconds", "LearningRate", *outputs], written


def write_csv(log: TrainingLog, folder: PathLike) -> list[Path]:
    """Write `<log name>.train` and `<log name>.test` (further test nets: `.test1`, ...); returns the paths.

    Tables of an earlier call are replaced. Raises `CaffeSplitError` for another file of such a name.
    """
    target = make_folder(folder)
    wanted = [("train", 0, ".train")]
    wanted += [("tests", net, f".test{net or ''}") for net in log.test_nets]
    written = []
    for kind, net, suffix in wanted:
        names, rows = bvlc_table(log, kind, net)
        if rows:
            text = io.StringIO()
            writer = csv.writer(text)  # with the line ends that parse_log.py leaves
            writer.writerow(names)
            writer.writerows(rows)
            written.append(target / (Path(log.path).name + suffix))
            check_ours(written[-1], b"NumIters,Seconds,LearningRate", "table of a log")
            write_atomic(written[-1], text.getvalue().encode("utf-8"))
    return written


def as_json(log: TrainingLog) -> str:
    """The whole log: runs with tables (columns as lists, nan as null) and events."""
    runs = []
    for run in log.runs:
        runs.append(
            {
                "first_line": run.first_line,
                "last_line": run.last_line,
                "started": run.started.isoformat() if run.started else None,
                "seconds": run.seconds,
                "state": run.state,
                "cause": run.cause,
                "displays": _columns(run.displays),
                "train": _columns(run.train),
                "lr": _columns(run.lr),
                "clips": _columns(run.clips),
                "tests": {str(net): _columns(table) for net, table in run.tests.items()},
                "batches": _columns(run.batches),
                "results": run.results,
                "events": [_event(event) for event in run.events],
            }
        )
    return json.dumps(jsontext.finite({"log": log.path, "size": log.size, "lines": log.lines, "runs": runs}))


def write_json(log: TrainingLog, folder: PathLike) -> Path:
    """Write `<log name>.json`; returns its path.

    What an earlier call wrote is replaced. Raises `CaffeSplitError` for another file of that name.
    """
    path = make_folder(folder) / (Path(log.path).name + ".json")
    check_ours(path, b'{"log": ', "log as JSON")
    write_atomic(path, as_json(log).encode("utf-8"))
    return path


def _seconds(log: TrainingLog, table: Table) -> list[object]:
    solving = [event.clock for event in log.events if event.kind == "solving"]
    origin = next(iter(solving), log.runs[0].start)
    if origin == NO_CLOCK:
        return [float("nan")] * len(table)
    return [(clock - origin) / 1e6 if clock != NO_CLOCK else float("nan") for clock in table.clock.tolist()]


def _rates(log: TrainingLog, lines: np.ndarray) -> list[object]:
    rates = concatenate([run.lr for run in log.runs])
    if not len(rates):
        return [float("nan")] * len(lines)
    before = np.searchsorted(rates.lines["lr"], lines) - 1
    return np.where(before >= 0, rates["lr"][before], np.nan).tolist()  # type: ignore[no-any-return]


def _columns(table: Table) -> dict[str, object]:
    return {
        "iteration": table.iteration.tolist(),
        "seconds": table.seconds.tolist(),
        "values": {name: column.tolist() for name, column in table.values.items()},
        "lines": {name: column.tolist() for name, column in table.lines.items()},
    }


def _event(event: Event) -> dict[str, object]:
    return {"kind": event.kind, "text": event.text, "iteration": event.iteration, "line": event.line}
