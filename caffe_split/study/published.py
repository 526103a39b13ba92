"""A study's page that is there already: of what plan it is, and the conclusion that a person wrote."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from caffe_split import jsontext
from caffe_split.errors import CaffeSplitError
from caffe_split.files import scratch, write_atomic
from caffe_split.study.keep import holds_runs
from caffe_split.study.model import Study
from caffe_split.study.read import read_study
from caffe_split.study.table import facts

BEGIN, END = "<!-- conclusion: kept when the page is made again -->", "<!-- end of the conclusion -->"
_UNWRITTEN = "(to be written by a person)"
# Before and behind the study's file, as it stands on its page.
SOURCE, SOURCE_END = "```yaml\n", "\n```"
# What stands beside NAME.md, in the order of `table.FILES`.
_ENDINGS = (".csv", ".png", "_gains.png", ".json")


def beside(page: Path) -> list[Path]:
    """The files that belong to a page."""
    return [page.with_name(f"{page.stem}{ending}") for ending in _ENDINGS]


def check_page(study: Study, folder: Path, logs: bool = False) -> tuple[Path, str]:
    """The page of a study in `folder`, and the conclusion that stands in it.

    Raises `CaffeSplitError` where another file is in its place, or, with `logs`, in that of the runs that are kept; and
    where the page is of another plan, or has seeds or runs that the study lacks.
    """
    page = folder / f"{study.name}.md"
    kept = page.with_suffix("")
    if folder.exists() and not folder.is_dir():
        raise CaffeSplitError(f"{folder}: --publish names a folder, and this is a file; choose another")
    if logs and kept.exists() and not (kept.is_dir() and holds_runs(kept)):
        raise CaffeSplitError(
            f"{kept} has other files than nets and logs of runs; nothing is overwritten unasked: move it away, or "
            "choose another --publish"
        )
    if not page.exists():
        for each in beside(page):
            if each.exists():
                raise CaffeSplitError(
                    f"{each} exists without a page {page.name}; nothing is overwritten unasked: move it away, or "
                    "choose another --publish"
                )
        return page, _UNWRITTEN
    try:
        text = page.read_text(encoding="utf-8", errors="surrogateescape")
    except OSError:
        text = ""
    if BEGIN not in text or END not in text:
        raise CaffeSplitError(f"{page} is not a study's page; nothing is overwritten unasked.")
    other = _other_plan(study, text, _values(beside(page)[-1]))
    if other:
        raise CaffeSplitError(
            f"{page}: {other}; nothing is overwritten unasked: move it away, with the files beside it, or "
            "choose another --publish"
        )
    return page, text.split(BEGIN)[1].split(END)[0].strip()


def _values(path: Path) -> dict[str, Any]:
    """The numbers beside a page; of a publication that was cut short there may be none."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return value if isinstance(value, dict) else {}


def _other_plan(study: Study, text: str, values: dict[str, Any]) -> str:
    """What the page has that a page of `study` would lose; empty where there is nothing."""
    now = json.loads(jsontext.dumps(facts(study)))
    for key in ("scale", "split", "window", "length"):
        if values.get(key, now[key]) != now[key]:
            return f"it is of a study with {key} {values[key]}, not {now[key]}"
    before = _on_page(text, now["scale"])
    if before is not None:
        for key in ("engine", "device", "precision", "schedule", "interval"):
            if getattr(before, key) != getattr(study, key):
                return f"it is of a study with {key} {getattr(before, key)}, not {getattr(study, key)}"
        arms = {arm.name: arm.as_read for arm in before.arms}
        for arm in study.arms:
            if arms.get(arm.name, arm.as_read) != arm.as_read:
                return f"its arm {arm.name} is another"
    runs: dict[str, list[str]] = {row["run"]: [*row["final_by_seed"]] for row in values.get("rows", [])}
    seeds = dict.fromkeys(seed for each in runs.values() for seed in each)
    for what, found, kept in (("seeds", seeds, {*map(str, study.seeds)}), ("runs", runs, {*study.wanted})):
        lost = [name for name in found if name not in kept]
        if lost:
            return f"it has {what} that the new page would not have, {', '.join(lost)}"
    return ""


def _on_page(text: str, scale: str) -> Study | None:
    """The study whose file stands on a page; None where this version cannot read it."""
    source = text.rpartition(SOURCE)[2].rpartition(SOURCE_END)[0]
    try:
        with scratch() as place:
            file = place / "study.yaml"
            write_atomic(file, source.encode("utf-8", "surrogateescape"))
            return read_study(file, {"scale": scale})
    except CaffeSplitError:
        return None
