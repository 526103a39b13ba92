"""The results of `bench_export` as a table in docs/export.md."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.export_rivals import PACKAGES, PINS, PYTHON
from benchmarks.nets.sources import ROOT, sources

PAGE = ROOT / "docs/export.md"
START, END = "<!-- python -m benchmarks.bench_export --table -->\n", "<!-- end of the table -->\n"
TOLERANCE = 1e-4
COLUMNS = {"ours": "caffe-split", **{name.partition("==")[0]: name.replace("==", " ") for name in PACKAGES}}


def write_table(results: Path) -> None:
    """Put the table between its two marks in docs/export.md."""
    text = PAGE.read_text(encoding="utf-8")
    before, _, rest = text.partition(START)
    _, _, after = rest.partition(END)
    if not after:
        raise SystemExit(f"{PAGE}: it lacks the lines {START!r} and {END!r}, between which the table stands")
    PAGE.write_text(f"{before}{START}\n{table(results)}\n{END}{after}", encoding="utf-8")


def table(results: Path) -> str:
    """All results in a folder as Markdown, with a line of counts and one of versions."""
    found: dict[str, dict[str, Any]] = {}
    for name in sources():
        file = results / f"{name.replace('/', ' ')}.json"
        if file.exists():
            found[name] = json.loads(file.read_text())
    if not found:
        raise SystemExit(f"{results}: no results")
    lines = [f"| net | its outputs | {' | '.join(COLUMNS.values())} |", "|---|---|" + "---|" * len(COLUMNS)]
    counts = {column: Counter[str]() for column in COLUMNS}
    for name, entry in found.items():
        if "refused" in entry:
            lines.append(f"| {name} | | refused: {entry['refused'].rpartition(': ')[2]} | | |")
            continue
        star = "" if entry["judge"] == "Caffe" else " *"
        spread = next(iter(entry["outputs"].values()))
        cells = []
        for column in COLUMNS:
            verdict, cell = _cell(entry.get(column, {}))
            counts[column][verdict] += 1
            cells.append(cell)
        lines.append(f"| {name}{star} | {spread['least']:.2g} to {spread['most']:.2g} | {' | '.join(cells)} |")
    total = sum(counts["ours"].values())
    words = [
        f"{COLUMNS[column]}: {', '.join(f'{number} {verdict}' for verdict, number in count.most_common())}"
        for column, count in counts.items()
    ]
    versions = ", ".join(f"{name} {number}" for name, number in next(iter(found.values()))["versions"].items())
    return (
        "\n".join(lines)
        + f"\n\nOf {total} nets: {'; '.join(words)}.\n"
        + f"With {versions}; the converters in Python {PYTHON} with {', '.join(PINS).replace('==', ' ')}.\n"
    )


def _cell(entry: Mapping[str, Any]) -> tuple[str, str]:
    """(verdict, cell) of one conversion; an empty one was not tried."""
    if not entry:
        return "not tried", "not tried"
    if "why" in entry:
        return "no model", "no model"
    time = f"{entry['seconds']:.1f} s"
    if "wrong" in entry:
        runs = "onnxruntime does not run it" not in entry["wrong"]
        return ("different", f"**another shape**, {time}") if runs else ("not run", f"not run, {time}")
    if entry["difference"] <= TOLERANCE:
        return "right", f"{entry['difference']:.0e}, {time}"
    return "different", f"**{entry['difference']:.0e}**, {time}"
