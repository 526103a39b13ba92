"""A summary as text: a table for a reader, JSON and CSV for programs."""

from __future__ import annotations

import csv
import io
from collections.abc import Sequence
from typing import Any

from caffe_split.errors import counted
from caffe_split.layertypes.cost import changes, listing
from caffe_split.layertypes.summary import Row, Summary, pair_up


def table_lines(summary: Summary) -> list[str]:
    """The table, one line per layer, with the totals below."""
    body = [(row.name, row.type, row.output, _count(row.parameters), _count(row.macs)) for row in summary.rows]
    head = ("layer", "type", "output", "parameters", "multiply-adds")
    count = counted(len(body), "layer")
    total = ("total", count, "", *(text if text != "0" else "-" for text in summary.cost.texts()))
    return [*_columns([head, *body, total], "lllrr"), *_notes(summary)]


def pair_lines(first: Summary, second: Summary, only_changes: bool = False) -> list[str]:
    """Both nets side by side, with + added, - removed and ~ changed (and in what); totals and their ratio."""
    pairs = pair_up(first, second)
    table: list[tuple[str, ...]] = [
        ("", "layer", "type", *(f"{key} {n}" for key in ("output", "parameters", "multiply-adds") for n in (1, 2)), "")
    ]
    for pair in pairs:
        if pair.change != "same" or not only_changes:
            one, two = pair.first, pair.second
            types = dict.fromkeys(row.type for row in (one, two) if row)
            table.append(
                (
                    {"added": "+", "removed": "-", "changed": "~", "same": ""}[pair.change],
                    pair.name,
                    " -> ".join(types),
                    *(row.output if row else "" for row in (one, two)),
                    *(_count(row.parameters) if row else "" for row in (one, two)),
                    *(_count(row.macs) if row else "" for row in (one, two)),
                    ", ".join(pair.changed),
                )
            )
    counts = {change: sum(pair.change == change for pair in pairs) for change in ("added", "removed", "changed")}
    return [
        f"1: {first.net}   2: {second.net}   phase {first.phase}",
        *_columns(table, "lllllrrrrl"),
        f"layers {len(first.rows)} -> {len(second.rows)}: "
        + ", ".join(f"{number} {change}" for change, number in counts.items()),
        *changes(first.cost, second.cost)[:2],
        *_notes(first),
        *(_notes(second) if second.net != first.net else []),
    ]


def _notes(summary: Summary) -> list[str]:
    notes = []
    if summary.frozen:
        notes.append(f"{summary.net}: {summary.frozen:,} of the parameters are frozen (lr_mult 0)")
    if summary.unknown:
        notes.append(f"{summary.net}: the totals are without {listing(list(summary.unknown))}")
    names: dict[str, list[str]] = {}
    for name, why in summary.unknown.items():
        names.setdefault(why, []).append(f"'{name}'")
    for why, of in names.items():
        notes.append(f"{summary.net}: not known of layer{'s' if len(of) > 1 else ''} {listing(of)}: {why}")
    return notes


def _count(number: int | None) -> str:
    return "?" if number is None else f"{number:,}" if number else "-"


def _columns(rows: Sequence[Sequence[str]], sides: str) -> list[str]:
    widths = [max(len(row[i]) for row in rows) for i in range(len(sides))]
    return [
        "  ".join(
            cell.ljust(width) if side == "l" else cell.rjust(width) for cell, width, side in zip(row, widths, sides)
        ).rstrip()
        for row in rows
    ]


# -- for programs


def as_dict(summary: Summary) -> dict[str, Any]:
    """The summary as JSON has it."""
    return {
        "net": summary.net,
        "phase": summary.phase,
        "layers": [_row_dict(row) for row in summary.rows],
        "parameters": summary.cost.parameters,
        "frozen_parameters": summary.frozen,
        "multiply_adds": summary.cost.macs,
        "unknown": summary.unknown,
        "at_least": dict(zip(("parameters", "multiply_adds"), summary.cost.least)),
    }


def _row_dict(row: Row) -> dict[str, Any]:
    return {
        "name": row.name,
        "type": row.type,
        "tops": None if row.tops is None else [list(shape) for shape in row.tops],
        "parameters": row.parameters,
        "frozen_parameters": row.frozen,
        "multiply_adds": row.macs,
    }


def pair_dict(first: Summary, second: Summary) -> dict[str, Any]:
    """Both nets and, per layer, how they differ; without the layers that are the same."""
    return {
        "first": as_dict(first),
        "second": as_dict(second),
        "differences": [
            {"name": pair.name, "change": pair.change, "changed": list(pair.changed)}
            for pair in pair_up(first, second)
            if pair.change != "same"
        ],
        "parameters_ratio": _quotient(first.cost.parameters, second.cost.parameters),
        "multiply_adds_ratio": _quotient(first.cost.macs, second.cost.macs),
    }


def _quotient(before: int | None, after: int | None) -> float | None:
    return after / before if before and after is not None else None


def csv_text(summary: Summary) -> str:
    """One line per layer, without totals; what is not known is empty."""
    head = ["layer", "type", "output", "parameters", "multiply_adds"]
    return _csv([head, *([row.name, row.type, row.output, row.parameters, row.macs] for row in summary.rows)])


def pair_csv(first: Summary, second: Summary) -> str:
    """One line per layer of either net."""
    head = ["layer", "change", "changed"]
    head += [f"{key}_{which}" for which in (1, 2) for key in ("type", "output", "parameters", "multiply_adds")]
    rows = []
    for pair in pair_up(first, second):
        cells = [
            cell
            for row in (pair.first, pair.second)
            for cell in ((row.type, row.output, row.parameters, row.macs) if row else ("", "", "", ""))
        ]
        rows.append([pair.name, pair.change, " ".join(pair.changed), *cells])
    return _csv([head, *rows])


def _csv(rows: Sequence[Sequence[object]]) -> str:
    stream = io.StringIO()
    csv.writer(stream, lineterminator="\n").writerows(rows)
    return stream.getvalue()
