"""What a log answers: the best value of an output, the final one, how runs compare."""

from __future__ import annotations

import math
import time
from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np

from caffe_split.trainlog import pipeline, text
from caffe_split.trainlog.chance import images_of_a_test, within_chance
from caffe_split.trainlog.lines import LineSplitter
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.outputs import Value, best_of, is_accuracy, is_loss, is_low, is_score, rank
from caffe_split.trainlog.snapshots import Snapshot, nearest_snapshot, started_from
from caffe_split.trainlog.summary import Summary

# Seconds after which a log that has not grown counts as no longer written, unless its displays are further apart.
QUIET = 300.0
# Names of logs that say nothing of the training; the folder's does.
_NAMELESS = ("train.log", "caffe_output.log")


def best_values(log: TrainingLog, output: str | None, count: int, net: int | None = None) -> list[Value]:
    """The `count` best values of an output, the best last: the lowest of a loss, the highest otherwise.

    net: here and below, the test net; None: all.
    """
    return sorted(log.values(output, net), key=rank)[-count:] if count else []


def final_values(log: TrainingLog, output: str | None = None, net: int | None = None) -> list[Value]:
    """The values of the last test phase, one per net and output; if `output` is given, its last value per net."""
    latest = {(value.net, value.output): value for value in log.values(output, net)}
    last = max(value.iteration for value in latest.values())
    return [value for value in latest.values() if value.iteration == last or output is not None]


def piped_values(log: TrainingLog, count: int, net: int | None = None) -> list[Value]:
    """The accuracies in the last `count` lines of the pipeline that `caffe-split best` stands for."""
    at = {value.offset: value for value in log.values(net=net)}
    return [at[found.offset] for found in pipeline.best_lines(log.path, count, log.rank, among=at)]


def nets_note(values: list[Value]) -> str:
    """What to say of values of several test nets; else ""."""
    nets = sorted({value.net for value in values})
    return pipeline.NETS_NOTE.format(", ".join(f"#{net}" for net in nets)) if len(nets) > 1 else ""


def trust_note(log: TrainingLog, output: str | None = None, of: int | None = None) -> str:
    """What to say of a log whose loss was not finite at some time, and which best value counts; else "".

    of: the test net; None: the first that printed the output.
    """
    where = "; ".join(str(stretch) for run in log.stretches for stretch in run)
    if not where:
        return ""
    net, chosen = log.main_output(output, of) or (0, "")
    best = best_of(log.values(chosen, net)) if chosen else None
    counts = f"the best that counts is {best.value:g} at iteration {best.iteration}" if best else "no value counts"
    return f"{where}: what the tests printed then says nothing; {counts}"


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
    """(state, reason) of the last training: done, stopped, running, crashed or cut off; the line of a crash or "".

    Without one the state is "no training", of a log without any run "empty". now: the time to judge by, in seconds
    since 1970; None: the present.
    """
    if not log.runs:
        return "empty", ""
    run = log.training
    if run is None:
        return "no training", ""
    if run.state == "crashed":
        return "crashed", run.cause
    if run.state != "unfinished":
        return run.state, ""
    steps = np.diff(run.displays.seconds) if len(run.displays) > 1 else np.zeros(1)
    patience = max(QUIET, 3 * float(np.nanmax(steps, initial=0.0)))
    quiet = (time.time() if now is None else now) - log.modified
    # What has grown may be the log of a test after it.
    return ("running" if quiet < patience and run is log.runs[-1] else "cut off"), ""


def summarise(logs: list[TrainingLog], output: str | None = None, of: int | None = None) -> list[Summary]:
    """One row per log, in order; differences are to the first that has a value.

    `output` None: each log's `main_output`; `of`: the test net, None: the first that printed it. The best is that of
    all runs in the file, as for the pipelines; the final one is the last printed.
    """
    rows: list[Summary] = []
    reference: Value | None = None
    for log, name in zip(logs, names_of([log.path for log in logs])):
        net, chosen = log.main_output(output, of) or (of or 0, "")
        values = log.values(chosen, net) if chosen else []
        best = best_of(values)
        reference = reference or best
        row = _row(log, name, chosen, values, best)
        row = replace(row, test_net=net, test_nets=len(log.test_nets), low=is_low(chosen, log.weight(net, chosen)))
        if not chosen:
            lowest = _lowest_loss(log, of)
            row = row if lowest is None else replace(row, test_loss=lowest.value, test_loss_at=lowest.iteration)
        if best is not None and reference is not None:
            share = is_accuracy(chosen, log.weight(net, chosen)) or is_score(chosen)
            images = images_of_a_test(log, net) if share else -1
            known = images > 0 and 0 <= best.value <= 1 and 0 <= reference.value <= 1
            row = replace(
                row,
                difference=best.value - reference.value,
                images=images,
                chance=known and within_chance(best.value, reference.value, images),
            )
        rows.append(row)
    return rows


def _row(log: TrainingLog, name: str, output: str, values: list[Value], best: Value | None) -> Summary:
    state, detail = state_of(log)
    near = nearest_snapshot(log, best.iteration, best.line) if best is not None else None
    if near is not None and not near.exists:
        near = None
    return Summary(
        net=name,
        path=log.path,
        output=output,
        best=best.value if best else math.nan,
        best_iteration=best.iteration if best else -1,
        final=values[-1].value if values and values[-1].trusted else math.nan,
        difference=math.nan,
        iterations=log.last_iteration,
        seconds=sum(run.seconds for run in log.runs if not math.isnan(run.seconds)),
        speed=_speed(log),
        state=f"{log.trouble}, {state}" if log.trouble else state,
        detail=detail,
        untrusted="; ".join(str(stretch) for run in log.stretches for stretch in run),
        test_loss=_test_loss(log, best) if best else math.nan,
        test_loss_at=best.iteration if best else -1,
        started_from=started_from(log),
        snapshot=near.path if near is not None else "",
        snapshot_iteration=near.iteration if near is not None else -1,
        snapshot_value=_tested(log, values, near) if near is not None else math.nan,
        snapshot_began=near.began if near is not None else -1,
    )


def _tested(log: TrainingLog, values: list[Value], near: Snapshot) -> float:
    """What the test of a snapshot's weights gave, in the run that wrote it or one that resumed from it; else NaN."""
    there = [value for value in values if value.trusted and value.iteration == near.iteration]
    same = [value.value for value in there if log.same_weights(log.run_of(value.line), near.run, near.iteration)]
    return same[-1] if same else math.nan


def _lowest_loss(log: TrainingLog, of: int | None) -> Value | None:
    """The lowest value of the first test loss, for a log without an accuracy."""
    outputs = [found for found in log.test_outputs() if of in (None, found[0])]
    first = next((found for found in outputs if is_loss(found[1], log.weight(*found))), None)
    return None if first is None else best_of(log.values(first[1], first[0]))


def _test_loss(log: TrainingLog, best: Value) -> float:
    """The test loss in the test of a value: of several heads that of its own, else the first."""
    for run in log.runs:
        table = run.tests.get(best.net)
        if table is None or not len(table) or best.output not in table.names:
            continue
        row = np.flatnonzero(table.lines[best.output] == best.line)
        losses = [name for name in table.names if is_loss(name, log.weight(best.net, name)) and name != best.output]
        head = best.output.rpartition("/")[0]
        own = [name for name in losses if name.rpartition("/")[0] == head] or losses
        if len(row) and own:
            return float(table[own[0]][row[0]])
    return math.nan


def names_of(paths: list[str]) -> list[str]:
    """Short names that differ: of a train.log its folder, else the file; longer where those are equal.

    They are relative, so that a file of such a name lies in the folder that it is put into.
    """
    # Without the root, which would make the longest name an absolute path.
    parts = [Path(path).resolve().parts[1:] for path in paths]
    different = set(parts)
    in_folder = Counter(path[:-1] for path in different if path[-1] in _NAMELESS)
    plain = [path[:-1] if path[-1] in _NAMELESS and in_folder[path[:-1]] == 1 and path[1:] else path for path in parts]
    for depth in range(1, max((len(path) for path in plain), default=1) + 1):
        names = ["/".join(path[-max(depth, 1 + (path[-1] in _NAMELESS)) :]) for path in plain]
        if len(set(names)) == len(different):
            return names
    return ["/".join(path) for path in parts]


def _speed(log: TrainingLog) -> float:
    steps, seconds = 0, 0.0
    for run in log.runs:
        if run.last_iteration > run.first_iteration >= 0 and run.seconds > 0:
            steps += run.last_iteration - run.first_iteration
            seconds += run.seconds
    return steps / seconds if seconds else math.nan
