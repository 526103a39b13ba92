"""What a log answers: the best value of an output, the final one, how runs compare."""

from __future__ import annotations

import math
import os
import re
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caffe_split.files import PathLike
from caffe_split.trainlog import pipeline, text
from caffe_split.trainlog.lines import LineSplitter
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.outputs import Value, best_of, rank

_NOT_FINITE = re.compile(rb"(?:= |#\d+: )[-+]?(?:nan|inf|1\.#)", re.IGNORECASE)
_NEAR = 1 << 14  # bytes before and behind a line
# Seconds after which a log that has not grown counts as no longer written, unless its displays are further apart.
QUIET = 300.0


@dataclass(frozen=True)
class Snapshot:
    """A file of weights. iteration: the one it was written at.

    path: where the file is; as printed in the log if it does not exist.
    """

    iteration: int
    path: str
    exists: bool


@dataclass(frozen=True)
class Summary:
    """One row of the Net | Acc table. Values that the log does not hold are NaN, iterations -1.

    difference: best minus that of the first log that has one. seconds: time in training. speed: iterations per second.
    state: done, stopped, running, crashed or cut off, after `nan from iteration N` if the loss is not finite. detail:
    the fatal line of a crash. untrusted: where the loss was not finite, so that tests do not count. parameters, macs:
    the cost of the net, which is not in the log; -1 if not known.
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
    untrusted: str = ""
    parameters: int = -1
    macs: int = -1

    def with_cost(self, parameters: int | None, macs: int | None) -> Summary:
        """The same row with the net's cost."""
        known = [-1 if count is None else count for count in (parameters, macs)]
        return replace(self, parameters=known[0], macs=known[1])


def best_values(log: TrainingLog, output: str | None, count: int) -> list[Value]:
    """The `count` best values of an output, the best last: the lowest of a loss, the highest otherwise."""
    return sorted(log.values(output), key=rank)[-count:] if count else []


def final_values(log: TrainingLog, output: str | None = None) -> list[Value]:
    """The values of the last test phase, one per net and output; if `output` is given, its last value per net."""
    latest = {(value.net, value.output): value for value in log.values(output)}
    last = max(value.iteration for value in latest.values())
    return [value for value in latest.values() if value.iteration == last or output is not None]


def piped_values(log: TrainingLog, count: int) -> list[Value]:
    """The values in the last `count` lines of the pipeline that `caffe-split best` stands for."""
    at = {value.offset: value for value in log.values()}
    return [at[found.offset] for found in pipeline.best_lines(log.path, count, log.rank) if found.offset in at]


def trust_note(log: TrainingLog, output: str | None = None) -> str:
    """What to say of a log whose loss was not finite at some time, and which best value counts; else ""."""
    where = "; ".join(str(stretch) for run in log.stretches for stretch in run)
    if not where:
        return ""
    net, chosen = log.main_output(output) or (0, "")
    best = best_of([value for value in log.values(chosen) if value.net == net]) if chosen else None
    counts = f"the best that counts is {best.value:g} at iteration {best.iteration}" if best else "no value counts"
    return f"{where}: what the tests printed then says nothing; {counts}"


def may_not_be_finite(path: PathLike, found: list[pipeline.Found]) -> bool:
    """Whether a loss that is not finite stands near one of the lines, or near the end of the log.

    It costs little. True also if the file is no plain text, where it cannot be looked up.
    """
    with open(path, "rb") as stream:
        for line in found:
            stream.seek(max(line.offset - _NEAR, 0))
            near = stream.read(2 * _NEAR + len(line.text))
            if line.text not in near or _NOT_FINITE.search(near):
                return True
        stream.seek(max(stream.seek(0, os.SEEK_END) - 4 * _NEAR, 0))
        return _NOT_FINITE.search(stream.read()) is not None


def nearest_snapshot(log: TrainingLog, iteration: int) -> Snapshot | None:
    """The snapshot of weights nearest to an iteration; those that exist come first. None if the log names none.

    A snapshot is looked for beside the log, with as many of the folders in its printed path as are there (so that it
    is found where the whole folder has been moved), and then at the printed path, from where this program runs.
    """
    folder = Path(log.path).parent
    found: list[Snapshot] = []
    for event in log.events:
        printed = event.path
        if printed is None or ".solverstate" in printed:
            continue
        parts = Path(printed).parts
        places = [
            folder.joinpath(*parts[start:]) for start in range(1 if Path(printed).is_absolute() else 0, len(parts))
        ]
        there = next((place for place in [*places, Path(printed)] if place.is_file()), None)
        found.append(Snapshot(event.iteration, printed if there is None else str(there), there is not None))
    return min(found, key=lambda s: (not s.exists, abs(s.iteration - iteration), s.iteration), default=None)


def read_lines(log: TrainingLog, values: list[Value]) -> list[bytes]:
    """The original lines of some values."""
    if not log.plain:
        return _lines_of_text(log, [value.offset for value in values])
    lines = []
    with open(log.path, "rb") as stream:
        for value in values:
            stream.seek(value.offset)
            lines.append(stream.readline().rstrip(b"\n"))
    return lines


def _lines_of_text(log: TrainingLog, offsets: list[int]) -> list[bytes]:
    found: dict[int, bytes] = {}
    splitter, offset = LineSplitter(), 0
    for block in text.blocks(log.path, text.Text(several=log.rank is not None, rank=log.rank)):
        lines = splitter.feed(block)
        offset += splitter.dropped
        splitter.dropped = 0
        for place in offsets:
            if offset <= place < offset + len(lines):
                found[place] = lines[place - offset : lines.index(b"\n", place - offset)]
        offset += len(lines)
    return [found.get(place, splitter.rest()) for place in offsets]


def state_of(log: TrainingLog, now: float | None = None) -> tuple[str, str]:
    """(state, reason) of the last run: done, stopped, running, crashed, cut off or empty; the line of a crash or "".

    now: the time to judge by, in seconds since 1970; None: the present.
    """
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
    """One row per log, in order; differences are to the first that has a value.

    `output` None: each log's `main_output`. The best is that of all runs in the file, as for the
    pipelines; the final one is the last printed.
    """
    rows: list[Summary] = []
    reference = math.nan
    for log, name in zip(logs, names_of([log.path for log in logs])):
        net, chosen = log.main_output(output) or (0, "")
        values = [value for value in log.values(chosen) if value.net == net] if chosen else []
        best = best_of(values)
        if best is not None and math.isnan(reference):
            reference = best.value
        state, detail = state_of(log)
        rows.append(
            Summary(
                net=name,
                path=log.path,
                output=chosen,
                best=best.value if best else math.nan,
                best_iteration=best.iteration if best else -1,
                final=values[-1].value if values and values[-1].trusted else math.nan,
                difference=best.value - reference if best else math.nan,
                iterations=max((run.last_iteration for run in log.runs), default=-1),
                seconds=sum(run.seconds for run in log.runs if not math.isnan(run.seconds)),
                speed=_speed(log),
                state=f"{log.trouble}, {state}" if log.trouble else state,
                detail=detail,
                untrusted="; ".join(str(stretch) for run in log.stretches for stretch in run),
            )
        )
    return rows


def names_of(paths: list[str]) -> list[str]:
    """Short names that differ: of a train.log its folder, else the file; longer where those are equal."""
    parts = [list(Path(path).resolve().parts) for path in paths]
    plain = [p[:-1] if p[-1] in ("train.log", "caffe_output.log") and len(p) > 2 else p for p in parts]
    for depth in range(1, max((len(p) for p in plain), default=1) + 1):
        names = ["/".join(p[-depth:]) for p in plain]
        if len(set(names)) == len({tuple(p) for p in plain}):
            return names
    return paths


def _speed(log: TrainingLog) -> float:
    steps, seconds = 0, 0.0
    for run in log.runs:
        if run.last_iteration > run.first_iteration >= 0 and run.seconds > 0:
            steps += run.last_iteration - run.first_iteration
            seconds += run.seconds
    return steps / seconds if seconds else math.nan
