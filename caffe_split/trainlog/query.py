"""What people ask a log: the best value of an output, the final one, how runs compare."""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
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

    def with_cost(self, parameters: int | None, macs: int | None) -> Summary:
        """The same row with the net's cost."""
        known = [-1 if count is None else count for count in (parameters, macs)]
        return replace(self, parameters=known[0], macs=known[1])


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
        raise CaffeSplitError(f"{log.path} {_what_instead(log)}")
    wanted = "no accuracy-like test output" if output is None else f"no test output named {output}"
    raise CaffeSplitError(f"{log.path} has {wanted}; it has: {', '.join(known)}. Choose with --output NAME")


def best_values(log: TrainingLog, output: str, count: int) -> list[Value]:
    """The `count` best values, the best last: the lowest of a loss, the highest otherwise; nan never wins."""
    return sorted(values_of(log, output), key=_order(output))[-count:] if count else []


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


def main_output(log: TrainingLog, output: str | None = None) -> tuple[int, str] | None:
    """(test net, name) of the output to judge a training by; None: it printed none.

    `output` None: the first accuracy, of a net with several heads (loss1/top-1, ...) that of the last one.
    """
    if output is not None:
        return next((found for found in log.test_outputs() if found[1] == output), None)
    some = [found for found in log.test_outputs() if is_accuracy(found[1])]
    if not some:
        return None
    names = [name for net, name in some if net == some[0][0]]
    head = names[-1].rpartition("/")[0]
    return some[0][0], next(name for name in names if name.rpartition("/")[0] == head)


def summarise(logs: list[TrainingLog], output: str | None = None) -> list[Summary]:
    """One row a log, in order; differences are to the first. `output` None: each log's `main_output`.

    The best is that of all runs in the file, as for the pipelines; the final one is the last printed.
    """
    rows: list[Summary] = []
    for log, name in zip(logs, names_of([log.path for log in logs])):
        net, chosen = main_output(log, output) or (0, "")
        values = [value for value in values_of(log, chosen) if value.net == net] if chosen else []
        best = sorted(values, key=_order(chosen))[-1] if values else None
        state, detail = state_of(log)
        first = rows[0].best if rows else (best.value if best else math.nan)
        rows.append(
            Summary(
                net=name,
                path=log.path,
                output=chosen,
                best=best.value if best else math.nan,
                best_iteration=best.iteration if best else -1,
                final=values[-1].value if values else math.nan,
                difference=best.value - first if best else math.nan,
                iterations=max((run.last_iteration for run in log.runs), default=-1),
                seconds=sum(run.seconds for run in log.runs if not math.isnan(run.seconds)),
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


def _order(output: str) -> Callable[[Value], tuple[float, int]]:
    """Sorts values from worst to best, the later of equal ones behind."""
    sign = -1.0 if is_loss(output) else 1.0
    return lambda found: (-math.inf if math.isnan(found.value) else sign * found.value, found.line)


def _what_instead(log: TrainingLog) -> str:
    """What a log without test outputs is."""
    results = {name: value for run in log.runs for name, value in run.results.items()}
    if not log.size:
        return "is empty"
    if not log.runs:
        return "holds no line of a training; expected what `caffe train` writes to its standard error"
    if results:
        shown = ", ".join(f"{name} {value:g}" for name, value in list(results.items())[:6])
        return f"is no training but a log of `caffe test` or `caffe time`: {shown}"
    return (
        "holds no test output, no line such as `Test net output #0: accuracy = 0.5`; was the solver given a "
        "test_interval?"
    )


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
