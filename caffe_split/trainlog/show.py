"""The summary of several logs as text: Markdown, CSV or JSON. Formatting happens here and nowhere else."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from dataclasses import asdict

from caffe_split import jsontext
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.outputs import Value
from caffe_split.trainlog.query import Snapshot, Summary

_HEADINGS = ("Net", "Acc", "Final", "Best at", "Difference", "Time", "it/s", "State")
_COST_HEADINGS = ("Parameters", "Multiply-adds")


def number(value: float, digits: int = 6) -> str:
    """A number as Caffe prints it, or a dash for NaN."""
    return "-" if math.isnan(value) else f"{value:.{digits}g}"


def duration(seconds: float) -> str:
    """Seconds as h:mm:ss."""
    if math.isnan(seconds):
        return "-"
    whole = round(seconds)
    return f"{whole // 3600}:{whole // 60 % 60:02d}:{whole % 60:02d}"


def cells(rows: Sequence[Summary]) -> list[list[str]]:
    """The Net | Acc table as text: a line of headings, then one line per run. Costs only if some are known."""
    costs = any(row.parameters >= 0 or row.macs >= 0 for row in rows)
    table = [list(_HEADINGS + (_COST_HEADINGS if costs else ()))]
    for row in rows:
        difference = "-" if math.isnan(row.difference) else f"{row.difference:+.4f}"
        table.append(
            [
                row.net,
                number(row.best),
                number(row.final),
                str(row.best_iteration) if row.best_iteration >= 0 else "-",
                difference,
                duration(row.seconds),
                number(row.speed, 3),
                row.state if row.iterations < 0 else f"{row.state} at {row.iterations}",
            ]
            + [f"{count:,}" if count >= 0 else "-" for count in (row.parameters, row.macs)[: 2 * costs]]
        )
    return table


def notes(rows: Sequence[Summary]) -> list[str]:
    """The notes below the table: which output it shows, and how crashed runs ended."""
    lines = []
    outputs = list(dict.fromkeys(row.output for row in rows if row.output))
    if outputs:
        reference = next((row.net for row in rows if not math.isnan(row.difference)), "")
        difference = f"; Difference: to {reference}" if reference else ""
        lines.append(f"Acc: best value of test output {', '.join(outputs)}{difference}.")
    lines += [f"{row.net}: {row.untrusted}: tests there do not count." for row in rows if row.untrusted]
    return lines + [f"{row.net} ended with: {row.detail}" for row in rows if row.detail]


def markdown(rows: Sequence[Summary]) -> str:
    """The Net | Acc table, columns aligned, and its notes."""
    lines = aligned(cells(rows))
    said = notes(rows)
    outputs = any(row.output for row in rows)
    return "\n".join(lines + ([""] if outputs else []) + said)


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
        "line": found.line,
        "offset": found.offset,
        "text": line.decode("utf-8", "backslashreplace"),
        "snapshot": near.path if near is not None and exists else None,
        "snapshot_iteration": near.iteration if near is not None and exists else None,
    }


def nearest(near: Snapshot | None, iteration: int) -> str:
    """The snapshot nearest to an iteration, and how far away it is, as text."""
    if near is None:
        return "the log names no snapshot"
    if not near.exists:
        return f"nearest snapshot {near.path} (iteration {near.iteration}), no such file here"
    away = near.iteration - iteration
    distance = "" if not away else f" ({abs(away)} iterations {'later' if away > 0 else 'earlier'})"
    return f"nearest snapshot {near.path}{distance}"
