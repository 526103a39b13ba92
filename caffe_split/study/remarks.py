"""What a reader of a study's table should not overlook: runs that failed, and runs that collapsed."""

from __future__ import annotations

import re
from collections.abc import Sequence

from caffe_split.study.model import Study
from caffe_split.study.rows import Row

# A run has collapsed where less than this share of the control's accuracy, under the same seed, is left.
COLLAPSED = 0.75


def of_earlier_plans(study: Study) -> list[str]:
    """That the intervals are also corrected for comparisons of earlier plans of the folder; none without such."""
    if not study.earlier:
        return []
    listed = ", ".join(f"{run} less {other}" for run, other in study.earlier)
    verb = "is" if len(study.earlier) == 1 else "are"
    return [
        f"Of the {study.comparisons} comparisons that the intervals are corrected for, {len(study.earlier)} {verb} of "
        f"earlier plans of the study's folder: {listed}."
    ]


def remarks(rows: Sequence[Row]) -> list[str]:
    """The remarks as lines of Markdown; none where nothing failed or collapsed."""
    lines = []
    for title, found in (("Collapsed:", collapsed(rows)), ("Not finished:", failures(rows))):
        if found:
            lines += ["", title, "", *found]
    return lines


def failures(rows: Sequence[Row]) -> list[str]:
    """Why runs have failed. A reason that several share is given once, with their number."""
    groups: dict[str, list[tuple[str, str, str]]] = {}
    for row in rows:
        for seed, why in row.failed.items():
            # What differs by seed and run is where it happened.
            key = re.sub(r"\bs\d+([./])\S*", r"s\1", re.sub(r"^after \S+ failed: ", "", why))
            groups.setdefault(key, []).append((row.run, seed, why))
    lines = []
    for found in groups.values():
        runs: dict[str, list[str]] = {}
        for run, seed, _ in found:
            runs.setdefault(run, []).append(seed)
        if len(found) == 1:
            lines.append(f"- {found[0][0]}, seed {found[0][1]}: {found[0][2]}")
        else:
            names = "; ".join(f"{run}, {_seeds(seeds)}" for run, seeds in runs.items())
            lines.append(f"- {len(found)} runs ({names}), for the first: {found[0][2]}")
    return lines


def collapsed(rows: Sequence[Row]) -> list[str]:
    """The runs with seeds that ended far below the control under the same seed."""
    finals = {row.run: row.final_by_seed for row in rows}
    lines = []
    for row in rows:
        control = finals.get(row.control, {})
        seeds = [seed for seed, final in row.final_by_seed.items() if final < COLLAPSED * control.get(seed, 0.0)]
        if seeds:
            worst = min(seeds, key=lambda seed: row.final_by_seed[seed])
            ours, theirs = (100 * values[worst] for values in (row.final_by_seed, control))
            lines.append(
                f"- {row.run}, {_seeds(seeds)} of {len(row.final_by_seed)}: at worst {ours:.1f} % beside {theirs:.1f} "
                f"% of `{row.control}` (seed {worst}). Its mean says little: look at the loss in its train.log."
            )
    return lines


def _seeds(seeds: Sequence[str]) -> str:
    return f"seed{'s' if len(seeds) > 1 else ''} {', '.join(seeds)}"
