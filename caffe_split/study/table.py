"""The table of a study, as Markdown, CSV and JSON, with its figure."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from caffe_split.files import make_folder, write_atomic
from caffe_split.manifest import write_manifest
from caffe_split.plot.gains import draw_gains
from caffe_split.plot.pairs import draw_pairs
from caffe_split.plot.picture_file import write_picture
from caffe_split.study import nets
from caffe_split.study.gains import gains_of
from caffe_split.study.model import Study
from caffe_split.study.paths import open_study, write_json
from caffe_split.study.plan import steps_of
from caffe_split.study.remarks import remarks
from caffe_split.study.rows import Count, FoldRow, Row, differences, read_results, rows_of
from caffe_split.study.statistics import Interval

RESULTS = Path("results")
# In a study's folder; the last says that the others are there.
FILES = ("table.csv", "points.png", "gains.png", "table.json")
_BY_SEED = ("final", "best", "parameters", "macs")


def write_results() -> None:
    """Write `results/`: the table as Markdown, CSV and JSON, the figures, and the manifest, from the steps' marks."""
    study = open_study()
    rows = rows_of(study, read_results(study))
    make_folder(RESULTS)
    write_atomic(RESULTS / "table.md", markdown(rows).encode("utf-8", "surrogateescape"))
    write_table(study, rows, [RESULTS / name for name in FILES])
    marks = [Path(step.output) for step in steps_of(study) if Path(step.output).exists()]
    write_manifest(RESULTS, [study.file, study.solver, *marks], ["table.md", *FILES], study.as_dict())


def write_table(study: Study, rows: Sequence[Row], files: Sequence[Path]) -> None:
    """Write the rows as CSV, the figures of accuracies and of gains, and the rows as JSON into these four `files`."""
    lines, points, gains, values = files
    write_atomic(lines, _csv(rows).encode())
    columns = [(row.run, {seed: 100 * value for seed, value in row.final_by_seed.items()}) for row in rows]
    write_picture(points, lambda canvas: draw_pairs(canvas, columns, "final test accuracy, %"), force=True)
    write_picture(gains, lambda canvas: draw_gains(canvas, gains_of(rows)), force=True)
    write_json(values, {**facts(study), "rows": [row.as_dict() for row in rows]})


def facts(study: Study) -> dict[str, Any]:
    """What the rows of a table are of, as its JSON has it."""
    return {
        "study": study.name,
        "scale": study.scale,
        "seeds": list(study.seeds),
        "split": study.split,
        "window": study.window,
        "length": nets.length(study),
        "comparisons": study.comparisons,
    }


def markdown(rows: Sequence[Row]) -> str:
    """The rows as Markdown tables, accuracies in per cent."""
    lines = _head(
        "run",
        "n",
        "final %",
        "best %",
        "control",
        "final - control (95 % CI)",
        "all together (95 %)",
        "best - control (95 % CI)",
        "reading (final)",
    )
    for row in rows:
        final, best = row.final_difference, row.best_difference
        cells = [row.run, str(row.n), _percent(row.final_mean, row.final_sd), _percent(row.best_mean, row.best_sd)]
        cells += [row.control, _interval(final, row.n), _together(final), _interval(best, row.n)]
        cells.append(
            final.reading if final else "the training that was split" if row.run == "baseline" else "a control"
        )
        lines.append("| " + " | ".join(cells) + " |")
    lines += [
        "",
        *_head(
            "run",
            "parameters before",
            "parameters",
            "folded",
            "multiply-adds before",
            "multiply-adds",
            "folded",
            "folded - unfolded %",
            "training s",
        ),
    ]
    for row in rows:
        fold = row.folded or FoldRow(0, None, None, None)
        cells = [row.run, _count(row.parameters_before), _count(row.parameters), _count(fold.parameters)]
        cells += [_count(row.macs_before), _count(row.macs), _count(fold.macs)]
        off = fold.accuracy_difference
        cells += ["" if off is None else _points(off, "+"), _seconds(row.training_seconds)]
        lines.append("| " + " | ".join(cells) + " |")
    pairs = [(row.run, other, found) for row in rows for other, found in differences(row).items()]
    if pairs:
        lines += ["", *_head("run", "less", "pairs", "final (95 % CI)", "all together (95 %)", "reading")]
    for run, other, found in pairs:
        cells = [run, other, str(found.pairs), _interval(found, 0), _together(found), found.reading]
        lines.append("| " + " | ".join(cells) + " |")
    moved: dict[str, dict[str, float]] = {}
    for row in rows:
        for key, value in row.movements.items():
            part, comma, number = key.partition(", ")
            moved.setdefault(row.run + comma + number, {})[part] = value
    parts = list(dict.fromkeys(part for values in moved.values() for part in values))
    lines += ["", *_head("moved by", *parts)]
    for run, values in moved.items():
        cells = [f"{values[part]:.4f}" if part in values else "" for part in parts]
        lines.append("| " + " | ".join([run, *cells]) + " |")
    return "\n".join([*lines, *remarks(rows)]) + "\n"


def _head(*cells: str) -> list[str]:
    return ["| " + " | ".join(cells) + " |", "|" + " --- |" * len(cells)]


def _percent(mean: float, sd: float) -> str:
    return f"{_points(mean)} ± {_points(sd)}"


def _interval(interval: Interval | None, runs: int) -> str:
    """With the number of pairs where the control lacks seeds that the run has."""
    if interval is None:
        return ""
    mean, low, high = (_points(value, "+") for value in (interval.mean, interval.low, interval.high))
    return f"{mean} ({low} .. {high})" + (f", {interval.pairs} pairs" if interval.pairs < runs else "")


def _together(interval: Interval | None) -> str:
    """The ends of the interval that is right together with the others; nothing where there is none."""
    if interval is None or math.isnan(interval.low):
        return ""
    return " .. ".join(_points(end, "+") for end in interval.together)


def _points(share: float, sign: str = "") -> str:
    """A share in per cent; a dash where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:{sign}.3f}"


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"


def _count(value: Count) -> str:
    if value is None:
        return ""
    return " .. ".join(f"{one:,}" for one in value) if isinstance(value, list) else f"{value:,}"


def _csv(rows: Sequence[Row]) -> str:
    """One line per run and seed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "seed", *_BY_SEED])
    for row in rows:
        for seed in row.final_by_seed:
            writer.writerow([row.run, seed, *(getattr(row, f"{key}_by_seed")[seed] for key in _BY_SEED)])
    return out.getvalue()
