"""What people ask a log: the best value of an output, the final one, how runs compare."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.table import Table

_SNAPSHOT = re.compile(r"(\S+_iter_\d+\.(?:caffemodel|solverstate)(?:\.h5)?)")
_HIGH = re.compile(r"top[-_ ]?\d|precision|recall|detection_eval|\bm?(ap|iou)\b", re.IGNORECASE)
# A log that has not grown for this long, in seconds, is not being written any more, unless its own
# displays come more slowly than that.
QUIET = 300.0


@dataclass(frozen=True)
class Value:
    """One value of a test output and where it stands (line from 1, byte offset)."""

    net: int
    output: str
    iteration: int
    value: float
    line: int
    offset: int


@dataclass(frozen=True)
class Snapshot:
    """Weights: the iteration they were written at, where they are (else as printed), if they exist."""

    iteration: int
    path: str
    exists: bool


@dataclass(frozen=True)
class Summary:
    """One row of the Net | Acc table. Values are NaN and iterations -1 where the log does not tell.

    difference: best minus the first log's best. seconds: time in training. speed: iterations a second.
    state: done, stopped, running, crashed or cut off; detail: the fatal line of a crash. parameters, macs: the
    net's cost, which no log tells; -1 where nobody has filled it in.
    """

    net: str
    path: str
    output: str
    best: float
    best_iteration: int
    final: float
    difference: float
    iterations: int
    seconds: float
    speed: float
    state: str
    detail: str
    parameters: int = -1
    macs: int = -1


def is_accuracy(name: str) -> bool:
    """Is the output one that should be high? Of a name with slashes the last part says it: loss3/top-1."""
    return "acc" in name.lower() or bool(_HIGH.search(name.rpartition("/")[2]))


def is_loss(name: str) -> bool:
    """Is the output one that should be low?"""
    return not is_accuracy(name) and any(word in name.lower() for word in ("loss", "err", "entropy"))


def values_of(log: TrainingLog, output: str | None = None) -> list[Value]:
    """Every printed value of a test output, in the file's order, all runs included.

    output None: of all accuracy-like outputs. CaffeSplitError: there is no such output, or no test line.
    """
    result: list[Value] = []
    for run in log.runs:
        for net, table in run.tests.items():
            for name in table.names:
                if is_accuracy(name) if output is None else name == output:
                    result.extend(_values(table, net, name))
    if result:
        return sorted(result, key=lambda value: value.line)
    known = list(dict.fromkeys(name for _, name in log.test_outputs()))
    if not known:
        raise CaffeSplitError(
            f"{log.path} holds no test output: no line such as `Test net output #0: accuracy = 0.5`; "
            "was the solver given a test_interval?"
        )
    wanted = "no accuracy-like test output" if output is None else f"no test output named {output}"
    raise CaffeSplitError(f"{log.path} has {wanted}; it has: {', '.join(known)}. Choose with --output NAME")


def best_values(log: TrainingLog, output: str, count: int) -> list[Value]:
    """The `count` best values, the best last: the lowest of a loss, the highest otherwise; nan never wins."""
    sign = -1.0 if is_loss(output) else 1.0

    def order(value: Value) -> tuple[float, int]:
        return (-math.inf if math.isnan(value.value) else sign * value.value, value.line)

    return sorted(values_of(log, output), key=order)[-count:] if count else []


def final_values(log: TrainingLog, output: str | None = None) -> list[Value]:
    """The values of the last test phase of each net and output."""
    latest = {(value.net, value.output): value for value in values_of(log, output)}
    last = max(value.iteration for value in latest.values())
    return [value for value in latest.values() if value.iteration == last or output is not None]


def nearest_snapshot(log: TrainingLog, iteration: int) -> Snapshot | None:
    """The snapshot of weights nearest to an iteration, one that exists rather. None: no snapshot at all.

    Paths are looked up as printed (relative to where Caffe was started), then beside the log.
    """
    found: list[Snapshot] = []
    for event in log.events:
        match = _SNAPSHOT.search(event.text) if event.kind == "snapshot" else None
        if match and ".caffemodel" in match[1]:
            for place in (Path(match[1]), Path(log.path).parent / Path(match[1]).name):
                if place.is_file():
                    found.append(Snapshot(event.iteration, str(place), True))
                    break
            else:
                found.append(Snapshot(event.iteration, match[1], False))
    return min(found, key=lambda s: (not s.exists, abs(s.iteration - iteration), s.iteration), default=None)


def read_lines(path: str | os.PathLike[str], values: list[Value]) -> list[bytes]:
    """The original lines of some values."""
    lines = []
    with open(path, "rb") as stream:
        for value in values:
            stream.seek(value.offset)
            lines.append(stream.readline().rstrip(b"\n"))
    return lines


def state_of(log: TrainingLog, now: float | None = None) -> tuple[str, str]:
    """The last run's (done, stopped, running, crashed, cut off or empty; the line that says why or "")."""
    if not log.runs:
        return "empty", ""
    run = log.runs[-1]
    if run.state == "crashed":
        return "crashed", run.cause
    if run.state != "unfinished":
        return run.state, ""
    steps = np.diff(run.displays.seconds) if len(run.displays) > 1 else np.zeros(1)
    patience = max(QUIET, 3 * float(np.nanmax(steps, initial=0.0)))
    quiet = (time.time() if now is None else now) - log.modified
    return ("running" if quiet < patience else "cut off"), ""


def summarise(logs: list[TrainingLog], output: str | None = None) -> list[Summary]:
    """One row a log, in order; differences are to the first. `output` None: each log's first accuracy."""
    rows: list[Summary] = []
    for log, name in zip(logs, names_of([log.path for log in logs])):
        chosen = output
        if chosen is None:
            chosen = next((found for _, found in log.test_outputs() if is_accuracy(found)), None)
        values = values_of(log, chosen) if chosen is not None else []
        merged = _merged(log, chosen)
        best = best_values(log, chosen, 1) if chosen is not None and values else []
        state, detail = state_of(log)
        seconds = sum(run.seconds for run in log.runs if not math.isnan(run.seconds))
        first = rows[0].best if rows else (best[0].value if best else math.nan)
        rows.append(
            Summary(
                net=name,
                path=log.path,
                output=chosen or "",
                best=best[0].value if best else math.nan,
                best_iteration=best[0].iteration if best else -1,
                final=merged[-1] if len(merged) else math.nan,
                difference=(best[0].value - first) if best else math.nan,
                iterations=max((run.last_iteration for run in log.runs), default=-1),
                seconds=seconds,
                speed=_speed(log),
                state=state,
                detail=detail,
            )
        )
    return rows


def names_of(paths: list[str]) -> list[str]:
    """Short names that tell logs apart: the run's folder for a train.log, else the file."""
    parts = [list(Path(path).resolve().parts) for path in paths]
    plain = [p[:-1] if p[-1] in ("train.log", "caffe_output.log") and len(p) > 2 else p for p in parts]
    for depth in range(1, max((len(p) for p in plain), default=1) + 1):
        names = ["/".join(p[-depth:]) for p in plain]
        if len(set(names)) == len({tuple(p) for p in plain}):
            return names
    return paths


def _merged(log: TrainingLog, output: str | None) -> np.ndarray:
    for net, name in log.test_outputs():
        if name == output:
            table = log.table("tests", net)
            return table[name][table.lines[name] > 0]
    return np.empty(0)


def _values(table: Table, net: int, name: str) -> list[Value]:
    return [
        Value(net, name, int(iteration), float(value), int(line), int(offset))
        for iteration, value, line, offset in zip(table.iteration, table[name], table.lines[name], table.offsets[name])
        if line
    ]


def _speed(log: TrainingLog) -> float:
    steps, seconds = 0, 0.0
    for run in log.runs:
        if run.last_iteration > run.first_iteration >= 0 and run.seconds > 0:
            steps += run.last_iteration - run.first_iteration
            seconds += run.seconds
    return steps / seconds if seconds else math.nan
