"""The result of a study: a row an arm, with paired differences to the control."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from caffe_split.files import write_atomic
from caffe_split.manifest import write_manifest
from caffe_split.plot.pairs import draw_pairs
from caffe_split.plot.tpm_figure import write_picture
from caffe_split.study.model import Study
from caffe_split.study.paths import open_study, read_json, write_json
from caffe_split.study.plan import Step, stages_of, steps_of
from caffe_split.study.statistics import paired, spread

RESULTS = Path("results")
CONTROL = "continue"
_BY_SEED = ("final", "best", "parameters", "macs")
Marks = Mapping[tuple[int, str, str], Mapping[str, Any]]


def write_results() -> None:
    """Write `results/`: the table as Markdown, CSV and JSON, the figure, and the manifest, from the steps' marks."""
    study = open_study()
    rows = rows_of(study, read_marks(study))
    RESULTS.mkdir(exist_ok=True)
    write_atomic(RESULTS / "table.md", markdown(rows).encode())
    write_atomic(RESULTS / "table.csv", _csv(rows).encode())
    figure = RESULTS / "points.png"
    columns = [(row["run"], {seed: 100 * value for seed, value in row["final_by_seed"].items()}) for row in rows]
    write_picture(figure, lambda canvas: draw_pairs(canvas, columns, "final test accuracy, %"), force=True)
    write_json(RESULTS / "table.json", {"study": study.name, "rows": rows})
    outputs = ["table.md", "table.csv", figure.name, "table.json"]
    marks = [Path(step.output) for step in steps_of(study) if Path(step.output).exists()]
    write_manifest(RESULTS, [study.file, study.solver, *marks], outputs, study.as_dict())


def read_marks(study: Study) -> Marks:
    """(seed, run, verb) -> what the step said; of a step without a mark that it has none."""
    return {(step.seed, step.name, step.verb): _mark(step) for step in steps_of(study)}


def _mark(step: Step) -> Mapping[str, Any]:
    path = Path(step.output)
    return read_json(path) if path.exists() else {"failed": "it was not run to its end"}


def rows_of(study: Study, marks: Marks) -> list[dict[str, Any]]:
    """A row a run: n, accuracies, differences to the control, costs, folding, time, movements, what failed."""
    names = [CONTROL, *study.rated, *(arm.name for arm in study.all_arms()), *(f"wider-{name}" for name in study.wider)]
    return [_row(study, marks, name) for name in names]


def _row(study: Study, marks: Marks, name: str) -> dict[str, Any]:
    rounds = [stage.name for arm in study.all_arms() if arm.name == name for stage in stages_of(study, arm)] or [name]
    runs = {seed: _whole([marks[seed, each, "train"] for each in rounds]) for seed in study.seeds}
    good = {seed: run for seed, run in runs.items() if "failed" not in run}
    control = {seed: marks[seed, CONTROL, "train"] for seed in study.seeds}
    row: dict[str, Any] = {"run": name, "n": len(good)}
    for value in ("final", "best"):
        row[f"{value}_mean"], row[f"{value}_sd"] = spread([run[value] for run in good.values()])
        pairs = [run[value] - control[seed][value] for seed, run in good.items() if "failed" not in control[seed]]
        interval = paired(pairs) if name != CONTROL else None
        row[f"{value}_difference"] = {**asdict(interval), "reading": interval.reading} if interval else None
        row[f"{value}_by_seed"] = {str(seed): run[value] for seed, run in good.items()}
    chance = {seed: marks.get((seed, f"random-{name}", "train"), {"failed": ""}) for seed in study.seeds}
    pairs = [run["final"] - chance[seed]["final"] for seed, run in good.items() if "failed" not in chance[seed]]
    interval = paired(pairs) if name in study.random else None
    row["final_difference_to_random"] = {**asdict(interval), "reading": interval.reading} if interval else None
    base = [marks[seed, "baseline", "train"] for seed in study.seeds]
    for key in ("parameters", "macs"):
        row[f"{key}_before"] = _same(run.get(key) for run in base if "failed" not in run)
        row[key] = _same(run.get(key) for run in good.values())
        row[f"{key}_by_seed"] = {str(seed): run.get(key) for seed, run in good.items()}
    folds = {seed: marks[seed, name, "fold"] for seed in good if (seed, name, "fold") in marks}
    folded = {seed: fold for seed, fold in folds.items() if "failed" not in fold}
    row["folded"] = (
        {
            "n": len(folded),
            "parameters": _same(fold["parameters"] for fold in folded.values()),
            "macs": _same(fold["macs"] for fold in folded.values()),
            "accuracy_difference": max((abs(f["final"] - f["unfolded"]) for f in folded.values()), default=None),
        }
        if folds
        else None
    )
    row["training_seconds"] = spread([run["training_seconds"] for run in good.values()])[0]
    row["movements"] = _movements([run["movements"] for run in good.values() if "movements" in run])
    failed = {seed: run["failed"] for seed, run in runs.items() if "failed" in run}
    failed.update({seed: f"fold: {fold['failed']}" for seed, fold in folds.items() if "failed" in fold})
    row["failed"] = {str(seed): why for seed, why in failed.items()}
    return row


def _whole(stages: Sequence[Mapping[str, Any]]) -> Mapping[str, Any]:
    """A run of several rounds as one: the last, with the best and the time of all, and each round's movements."""
    last = stages[-1]
    if "failed" in last or len(stages) == 1:
        return last
    moved = {
        f"{layer}, round {number}": {f"{part}, round {number}": value for part, value in parts.items()}
        for number, stage in enumerate(stages, 1)
        for layer, parts in stage["movements"].items()
    }
    seconds = sum(stage["training_seconds"] for stage in stages)
    best = max(stage["best"] for stage in stages)
    return {**last, "best": best, "training_seconds": seconds, "movements": moved}


def _same(values: Any) -> Any:
    """What all have; the least and the most where they differ."""
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return known[0] if known[0] == known[-1] else [known[0], known[-1]]


def _movements(runs: list[Mapping[str, Mapping[str, float]]]) -> dict[str, float]:
    """Part -> relative change of its weights, the mean over layers and seeds."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for parts in run.values():
            for part, value in parts.items():
                if value is not None:
                    found.setdefault(part, []).append(value)
    return {part: spread(values)[0] for part, values in found.items()}


def markdown(rows: list[dict[str, Any]]) -> str:
    """The rows as Markdown tables, accuracies in per cent."""
    lines = _head(
        "run", "n", "final %", "best %", "final - continue (95 % CI)", "best - continue (95 % CI)", "reading (final)"
    )
    for row in rows:
        final, best = row["final_difference"], row["best_difference"]
        cells = [row["run"], str(row["n"]), _percent(row, "final"), _percent(row, "best")]
        cells += [_interval(final, row["n"]), _interval(best, row["n"]), final["reading"] if final else "the control"]
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
        fold = row["folded"] or {}
        cells = [row["run"], *(_count(row[key]) for key in ("parameters_before", "parameters"))]
        cells += [_count(fold.get("parameters")), _count(row["macs_before"]), _count(row["macs"])]
        off = fold.get("accuracy_difference")
        cells += [_count(fold.get("macs")), "" if off is None else f"{100 * off:.3f}"]
        cells.append(_seconds(row["training_seconds"]))
        lines.append("| " + " | ".join(cells) + " |")
    moved: dict[str, dict[str, float]] = {}
    for row in rows:
        for key, value in row["movements"].items():
            part, comma, number = key.partition(", ")
            moved.setdefault(row["run"] + comma + number, {})[part] = value
    parts = list(dict.fromkeys(part for values in moved.values() for part in values))
    lines += ["", *_head("moved by", *parts)]
    for run, values in moved.items():
        cells = [f"{values[part]:.4f}" if part in values else "" for part in parts]
        lines.append("| " + " | ".join([run, *cells]) + " |")
    failed = [f"- {row['run']}, seed {seed}: {why}" for row in rows for seed, why in row["failed"].items()]
    if failed:
        lines += ["", "Not finished:", "", *failed]
    return "\n".join(lines) + "\n"


def _head(*cells: str) -> list[str]:
    return ["| " + " | ".join(cells) + " |", "|" + " --- |" * len(cells)]


def _percent(row: Mapping[str, Any], value: str) -> str:
    return f"{_points(row[f'{value}_mean'])} ± {_points(row[f'{value}_sd'])}"


def _interval(interval: Mapping[str, Any] | None, runs: int) -> str:
    """With the number of pairs where the control lacks seeds that the run has."""
    if interval is None:
        return ""
    mean, low, high = (_points(interval[key], "+") for key in ("mean", "low", "high"))
    return f"{mean} ({low} .. {high})" + (f", {interval['pairs']} pairs" if interval["pairs"] < runs else "")


def _points(share: float, sign: str = "") -> str:
    """A share in per cent; a dash where there is none."""
    return "-" if math.isnan(share) else f"{100 * share:{sign}.3f}"


def _seconds(value: float) -> str:
    return "-" if math.isnan(value) else f"{value:.0f}"


def _count(value: Any) -> str:
    if value is None:
        return ""
    return " .. ".join(f"{one:,}" for one in value) if isinstance(value, list) else f"{value:,}"


def _csv(rows: list[dict[str, Any]]) -> str:
    """A line a run and seed."""
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(["run", "seed", *_BY_SEED])
    for row in rows:
        for seed in row["final_by_seed"]:
            writer.writerow([row["run"], seed, *(row[f"{key}_by_seed"][seed] for key in _BY_SEED)])
    return out.getvalue()
