"""The summary of several logs as text: Markdown, CSV or JSON. Formatting happens here and nowhere else."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from caffe_split import jsontext
from caffe_split.trainlog.outputs import Value
from caffe_split.trainlog.summary import Summary

if TYPE_CHECKING:
    from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.snapshots import Snapshot

# Of more differences than this that may be chance, only the names are listed.
_MOST_LINES = 6


def number(value: float, digits: int = 6) -> str:
    """A number as Caffe prints it, or a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    if math.isnan(seconds):
        return "-"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def cells(rows: Sequence[Summary], snapshots: bool = False) -> list[list[str]]:
    """The Net | Acc table as text: a line of headings, then one line per run.

    Test loss, what the runs started from, and costs have columns only if some are known; snapshots: whether the
    snapshots nearest to the best have one.
    """
    columns: list[tuple[str, bool, list[str]]] = [
        ("Net", True, [row.net for row in rows]),
        ("Acc", True, [number(row.best) for row in rows]),
        ("Final", True, [number(row.final) for row in rows]),
        ("Best at", True, [_count(row.best_iteration) for row in rows]),
        ("Difference", True, ["-" if math.isnan(row.difference) else f"{row.difference:+.4f}" for row in rows]),
        ("Test loss", any(not math.isnan(row.test_loss) for row in rows), [number(row.test_loss) for row in rows]),
        ("Time", True, [duration(row.seconds) for row in rows]),
        ("it/s", True, [number(row.speed, 3) for row in rows]),
        ("State", True, [row.state + (f" at {row.iterations}" if row.iterations >= 0 else "") for row in rows]),
        ("Started from", any(row.started_from for row in rows), [row.started_from or "-" for row in rows]),
        ("Snapshot", snapshots, [_snapshot(row) for row in rows]),
    ]
    costs = any(row.parameters >= 0 or row.macs >= 0 for row in rows)
    columns += [
        ("Parameters", costs, [_count(row.parameters, ",") for row in rows]),
        ("Multiply-adds", costs, [_count(row.macs, ",") for row in rows]),
    ]
    shown = [[heading, *texts] for heading, there, texts in columns if there]
    return [list(line) for line in zip(*shown)]


def _count(value: int, form: str = "") -> str:
    return f"{value:{form}}" if value >= 0 else "-"


def _snapshot(row: Summary) -> str:
    """The file, and if it is not of the best iteration its own, with what was tested there."""
    if not row.snapshot or _is_of_best(row):
        return row.snapshot or "-"
    tested = "" if math.isnan(row.snapshot_value) else f": {number(row.snapshot_value)}"
    return f"{row.snapshot} (at {row.snapshot_iteration}{_of_run(row.snapshot_began)}{tested})"


def _is_of_best(row: Summary) -> bool:
    """Whether its snapshot has the weights of its best."""
    return row.snapshot_iteration == row.best_iteration and row.snapshot_began < 0


def _of_run(began: int) -> str:
    return f" of the run that began at {began}" if began >= 0 else ""


def notes(rows: Sequence[Summary]) -> list[str]:
    """The notes below the table: which output it shows, which differences may be chance, how runs went wrong."""
    lines = []
    outputs = list(dict.fromkeys(row.output for row in rows if row.output))
    if outputs:
        reference = next((row.net for row in rows if row.difference == 0), "")
        difference = f"; Difference: to {reference}" if reference else ""
        lines.append(f"Acc: best value of test output {', '.join(outputs)}{difference}.")
    lines += [
        f"{row.net}: {row.test_nets} test nets; shown is #{row.test_net}, `caffe-split table --net N` shows another."
        for row in rows
        if row.test_nets > 1
    ]
    lines += [
        f"{row.net}: no accuracy; its test loss is the lowest, at {row.test_loss_at}."
        for row in rows
        if not row.output and row.test_loss_at >= 0
    ]
    lines += _chances(rows)
    lines += [f"{row.net}: {row.untrusted}: tests there do not count." for row in rows if row.untrusted]
    return lines + [f"{row.net} ended with: {row.detail}" for row in rows if row.detail]


def _chances(rows: Sequence[Summary]) -> list[str]:
    some = [row for row in rows if row.chance and row.difference]
    if len(some) > _MOST_LINES:
        return [f"Within chance: {', '.join(row.net for row in some)}."]
    return [
        f"{row.net}: {row.difference:+.4f} is {round(abs(row.difference) * row.images):,} of {row.images:,} images: "
        "within chance."
        for row in some
    ]


def closing(rows: Sequence[Summary]) -> str:
    """E.g. `best: derived1 at 600, load derived1/net_iter_600.caffemodel`; "" if no run has a best value.

    Where no snapshot of the best iteration is there, it says so, and what was tested at that of the nearest one.
    """
    first = next((row for row in rows if row.best_iteration >= 0), None)
    if first is None:
        return ""
    sign = -1.0 if first.low else 1.0
    alike = [row for row in rows if row.best_iteration >= 0 and row.output == first.output]
    best = max(alike, key=lambda row: sign * row.best)
    at = f"best: {best.net} at {best.best_iteration}"
    if not best.snapshot:
        return f"{at}; no snapshot of it is there"
    if _is_of_best(best):
        return f"{at}, load {best.snapshot}"
    tested = "not tested" if math.isnan(best.snapshot_value) else f"{number(best.snapshot_value)} in its test"
    return (
        f"{at} ({number(best.best)}), of which no snapshot is there; the nearest, of {best.snapshot_iteration}"
        f"{_of_run(best.snapshot_began)} ({tested}): load {best.snapshot}"
    )


def markdown(rows: Sequence[Summary], snapshots: bool = False) -> str:
    """The Net | Acc table, columns aligned, and its notes; of several runs also which is the best. See `cells`."""
    lines = aligned(cells(rows, snapshots))
    said = notes(rows)
    if len(rows) > 1 and closing(rows):
        said.append(closing(rows))
    return "\n".join(lines + ([""] if said else []) + said)


def aligned(table: Sequence[Sequence[str]]) -> list[str]:
    """The lines of a Markdown table, columns aligned; the first row of `table` are the headings."""
    table = [[text.replace("|", "\\|") for text in line] for line in table]
    widths = [max(map(len, column)) for column in zip(*table)]
    lines = ["| " + " | ".join(text.ljust(width) for text, width in zip(line, widths)) + " |" for line in table]
    lines.insert(1, "|" + "|".join("-" * (width + 2) for width in widths) + "|")
    return lines


def as_csv(rows: Sequence[Summary]) -> str:
    """A line of names, then one line per log; numbers in full."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(Summary.__dataclass_fields__), lineterminator="\n")
    writer.writeheader()
    writer.writerows(asdict(row) for row in rows)
    return text.getvalue().rstrip("\n")


def as_json(rows: Sequence[Summary]) -> str:
    """A list of objects, nan as null."""
    return jsontext.dumps([asdict(row) for row in rows])


def record(log: TrainingLog, found: Value, line: bytes, near: Snapshot | None) -> dict[str, object]:
    """A value of a log as JSON has it: where it stands, its line, and the nearest snapshot that exists."""
    exists = near is not None and near.exists
    return {
        "log": log.path,
        "net": found.net,
        "output": found.output,
        "iteration": found.iteration,
        "value": found.value,
        "trusted": found.trusted,
        "line": found.line,
        "offset": found.offset,
        "text": line.decode("utf-8", "backslashreplace"),
        "snapshot": near.path if near is not None and exists else None,
        "snapshot_iteration": near.iteration if near is not None and exists else None,
        "snapshot_began": near.began if near is not None and exists and near.began >= 0 else None,
    }


def nearest(near: Snapshot | None, iteration: int) -> str:
    """The snapshot nearest to an iteration, and how far away it is, as text."""
    if near is None:
        return "the log names no snapshot"
    if not near.exists:
        return f"nearest snapshot {near.path} (iteration {near.iteration}), no such file here"
    away = near.iteration - iteration
    distance = "" if not away else f" ({abs(away)} iterations {'later' if away > 0 else 'earlier'})"
    other = f",{_of_run(near.began)}, which has other weights" if near.began >= 0 else ""
    return f"nearest snapshot {near.path}{distance}{other}"
