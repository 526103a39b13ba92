"""The study's table: every arm's accuracy over its seeds, and its paired difference from equal training."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from caffe_split.study.statistics import paired, spread
from gpu_study_parts.arms import CONTROLS, arms_of

COLUMNS = (
    "seed",
    "arm",
    "final",
    "folded",
    "differ",
    "best",
    "last_test",
    "parameters",
    "macs",
    "folded_parameters",
    "folded_macs",
    "seconds",
)
# What is told apart from what: (arm, the other), beside each arm's own control.
AGAINST = (("MultiSplits", "random-MultiSplits"), ("MultiSplits3", "MultiSplits"), ("continue3", "baseline"))


def read_results(folder: Path) -> list[dict[str, Any]]:
    """Every finished training's result, by seed, in the order of arms."""
    order = {arm.name: place for place, arm in enumerate(arms_of(0))}
    found = [json.loads(path.read_text(encoding="utf-8")) for path in folder.glob("s*/*/result.json")]
    return sorted(found, key=lambda result: (result["seed"], order[result["arm"]]))


def flat(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result as a line of the table."""
    cost, folded = result["cost"], result["folded_cost"]
    return {
        **{name: result.get(name) for name in COLUMNS},
        "parameters": cost["parameters"],
        "macs": cost["macs"],
        "folded_parameters": folded["parameters"],
        "folded_macs": folded["macs"],
    }


def as_csv(results: Sequence[Mapping[str, Any]]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, COLUMNS, lineterminator="\n")
    writer.writeheader()
    writer.writerows(flat(result) for result in results)
    return text.getvalue()


def rows_of(results: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """A row an arm: means and spreads over seeds, and paired differences to its control, of the folded net's accuracy
    (what it costs the baseline's to use), of the unfolded one's, and of the best test on the way."""
    by_arm: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        by_arm.setdefault(result["arm"], {})[result["seed"]] = result
    rows = []
    for arm in (arm.name for arm in arms_of(0)):
        mine = by_arm.get(arm, {})
        if not mine:
            continue
        control = CONTROLS.get(arm)
        row: dict[str, Any] = {"arm": arm, "control": control, "n": len(mine)}
        for measure in ("final", "folded", "best"):
            row[measure] = spread([result[measure] for result in mine.values()])
            if control is not None:
                row[f"{measure}_difference"] = difference(by_arm, arm, control, measure)
        row["differ"] = sum(result["differ"] for result in mine.values())
        row["images"] = sum(result["images"] for result in mine.values())
        first = next(iter(mine.values()))
        row["parameters"] = spread([result["cost"]["parameters"] for result in mine.values()])[0]
        row["macs"] = spread([result["cost"]["macs"] for result in mine.values()])[0]
        row["folded_cost"] = first["folded_cost"]
        rows.append(row)
    return rows


def difference(by_arm: Mapping[str, Mapping[int, Any]], arm: str, other: str, measure: str) -> dict[str, Any]:
    """The mean paired difference with its 95 % interval, in points of accuracy, and the number of pairs."""
    mine, theirs = by_arm.get(arm, {}), by_arm.get(other, {})
    seeds = sorted(set(mine) & set(theirs))
    interval = paired([100 * (mine[seed][measure] - theirs[seed][measure]) for seed in seeds])
    return {
        "mean": interval.mean,
        "low": interval.low,
        "high": interval.high,
        "pairs": interval.pairs,
        "reading": interval.reading,
    }


def _percent(value: tuple[float, float]) -> str:
    mean, deviation = (100 * part for part in value)
    return f"{mean:.2f}" if math.isnan(deviation) else f"{mean:.2f} ± {deviation:.2f}"


def points(found: Mapping[str, Any] | None) -> str:
    """A difference as people read it."""
    if not found or not found["pairs"]:
        return ""
    if math.isnan(found["low"]):
        return f"{found['mean']:+.2f}"
    return f"{found['mean']:+.2f} ({found['low']:+.2f} to {found['high']:+.2f})"


def markdown(results: Sequence[Mapping[str, Any]]) -> str:
    """The table for people."""
    rows = rows_of(results)
    lines = [
        "| run | n | final test accuracy, % | folded, % | best test, % | against | final, points (95 % interval) | "
        "folded, points (95 % interval) | best, points (95 % interval) | parameters | multiply-adds | "
        "folded: images that differ |",
        "| --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- | --- |",
    ]
    for row in rows:
        differences = [points(row.get(f"{measure}_difference")) for measure in ("final", "folded", "best")]
        cells = [
            row["arm"],
            str(row["n"]),
            *(_percent(row[measure]) for measure in ("final", "folded", "best")),
            row["control"] or "",
            *differences,
            f"{row['parameters']:,.0f}",
            f"{row['macs']:,.0f}",
            f"{row['differ']} of {row['images']:,}" if row["control"] else "",
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines) + "\n"


def further(results: Sequence[Mapping[str, Any]]) -> list[tuple[str, str, dict[str, Any]]]:
    """(arm, other, difference in the folded net's accuracy) of `AGAINST`."""
    by_arm: dict[str, dict[int, Mapping[str, Any]]] = {}
    for result in results:
        by_arm.setdefault(result["arm"], {})[result["seed"]] = result
    return [(arm, other, difference(by_arm, arm, other, "folded")) for arm, other in AGAINST]
