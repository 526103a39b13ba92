"""The page of the study, made from what a run handed back: docs/results/resnet20_cifar10_gpu.md and its table."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.files import write_atomic
from caffe_split.study.statistics import ENOUGH
from gpu_study_parts import table

NAME = "resnet20_cifar10_gpu"
# What has to be beaten at the baseline's cost: the 2017 study's gain, unfolded, of one run.
TO_BEAT = 1.09
BEGIN, END = "<!-- written by a person -->", "<!-- end -->"


def write_report(handed_back: Path, into: Path) -> Path:
    """Write the page and its CSV into the folder `into` from the `table.json` in `handed_back`; the page's path.

    What a person has written between its marks is kept. Raises `CaffeSplitError` where there is no table of a study.
    """
    path = handed_back / "table.json"
    try:
        whole = json.loads(path.read_text(encoding="utf-8"))
        results = whole["results"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaffeSplitError(f"{path}: no table of a study ({error}); give the folder of --hand-back.") from None
    if not results:
        raise CaffeSplitError(f"{path}: no training of this study came to its end; there is nothing to report.")
    page = into / f"{NAME}.md"
    old = page.read_text(encoding="utf-8") if page.exists() else ""
    kept = re.search(f"{re.escape(BEGIN)}\n(.*?){re.escape(END)}", old, re.S)
    into.mkdir(parents=True, exist_ok=True)
    write_atomic(page, page_of(whole, kept.group(1) if kept else "").encode())
    write_atomic(into / f"{NAME}.csv", table.as_csv(results).encode())
    return page


def page_of(whole: Mapping[str, Any], written: str) -> str:
    """The page's text."""
    results = whole["results"]
    rows = {row["arm"]: row for row in table.rows_of(results)}
    differ = sum(row["differ"] for row in rows.values())
    images = sum(row["images"] for row in rows.values() if row["control"])
    lines = [
        "# ResNet-20 on CIFAR-10, all of the 2017 study's arms with controls",
        "",
        first_line(rows),
        "",
        f"The recipe of prototxt/resnet20_cifar10 at scale {whole['scale']}: {whole['total']} iterations of "
        f"{whole['batch']} images, crops and mirrors, split at {whole['split']}, TPM over {whole['window'][0]} to "
        f"{whole['window'][1]} every {whole['interval']}, a test every {whole['test_interval']}. Seeds "
        f"{', '.join(map(str, whole['seeds']))}. `{whole['way']}` on {whole['device']}, PyTorch {whole['torch']}, "
        f"{whole['together']} trainings side by side, {whole['seconds']:.0f} seconds. Made by `tools/gpu_study`.",
        "",
        "Every round begins from the snapshot at the split of the one before and trains the whole schedule again "
        "(`restart`); `continue`, `continue2` and `continue3` do the same without a split. *final*: the last weights, "
        "tested by the engine in fp32 on all test images; *folded*: the folded net likewise, at the baseline's cost; "
        "*best*: the highest of the tests on the way, in the training's own precision; it flatters, since it is chosen "
        "on the test set. Differences are paired by seed, with 95 % intervals by Student's t, not corrected for their "
        "number.",
        "",
        table.markdown(results),
        f"Folded and unfolded nets differ in the class of {differ} of {images:,} images.",
        "",
        "| further comparisons, folded | points (95 % interval) | pairs | reading |",
        "| --- | --- | --- | --- |",
    ]
    for arm, other, found in table.further(results):
        if found["pairs"]:
            lines.append(f"| {arm} against {other} | {table.points(found)} | {found['pairs']} | {found['reading']} |")
    lines += ["", "## What it says", ""]
    for row in rows.values():
        if row["control"] and row["folded_difference"]["pairs"]:
            found = row["folded_difference"]
            lines.append(f"- {row['arm']} against {row['control']}: {table.points(found)} points, {found['reading']}.")
    seeds = len({result["seed"] for result in results})
    if seeds < ENOUGH:
        lines.append(
            f"- {seeds} seeds: fewer than the {ENOUGH} that a claim needs. An interval that spans zero "
            "does not tell a gain from none, and one that does not may be chance among so many."
        )
    if not whole["whole"]:
        lines.append("- The run did not come to its end: arms and seeds that are missing are not in the table.")
    lines += [f"- {key}: {reason}" for key, reason in whole["failed"].items()]
    return "\n".join([*lines, "", BEGIN, written.rstrip("\n"), END, ""]).replace(f"{BEGIN}\n\n{END}", f"{BEGIN}\n{END}")


def first_line(rows: Mapping[str, Mapping[str, Any]]) -> str:
    """Whether what has to be beaten was."""
    asked = f"The 2017 study's +{TO_BEAT:.2f} points (unfolded, one run), at the baseline's cost against equal training"
    rounds = {arm: row["folded_difference"] for arm, row in rows.items() if arm.startswith("MultiSplits")}
    found = {arm: difference for arm, difference in rounds.items() if difference["pairs"]}
    if not found:
        return f"{asked}: not measured."
    arm = max(found, key=lambda name: found[name]["mean"])
    reached = "reached" if found[arm]["mean"] >= TO_BEAT else "not reached"
    return f"{asked}: {reached}; the most is {arm}'s {table.points(found[arm])}."
