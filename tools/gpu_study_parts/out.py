"""What a run of the study hands back: few files, none larger than a limit."""

from __future__ import annotations

import json
import tarfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import gpu_study_parts.table as table

LIMIT = 15 << 20


def write_out(folder: Path, out: Path, facts: dict[str, Any], with_state: bool) -> list[Path]:
    """`table.csv`, `table.json` (with `facts`), `logs.tar.xz`, then nets and, `with_state`, all that another run of the
    study needs to go on, in tars of at most 15 MiB. Whatever is most wanted comes first."""
    out.mkdir(parents=True, exist_ok=True)
    results = table.read_results(folder)
    (out / "table.csv").write_text(table.as_csv(results), encoding="utf-8")
    whole = {**facts, "results": results, "rows": table.rows_of(results)}
    (out / "table.json").write_text(json.dumps(whole, indent=1), encoding="utf-8")
    small = [
        *folder.glob("s*/*/train.log"),
        *folder.glob("s*/*/facts.json"),
        *folder.glob("s*/*/*.prototxt"),
        *folder.glob("s*/*/manifest.json"),
        *folder.glob("s*/*/folded/*.json"),
        folder / "study.json",
    ]
    written = [out / "table.csv", out / "table.json"]
    written.append(_tar(folder, out / "logs.tar.xz", [path for path in small if path.is_file()], "w:xz"))
    state = []
    if with_state:
        state = [
            *folder.glob("s*/*/split.npz"),
            *folder.glob("s*/*/split_iter_*.caffemodel"),
            *folder.glob("s*/*/checkpoint.npz"),
            *folder.glob("s*/*/init.caffemodel"),
            *folder.glob("s*/*/result.json"),
        ]
    written += _tars(folder, out, "state", state)
    written += _tars(folder, out, "folded", sorted(folder.glob("s*/*/folded/folded.caffemodel")))
    return written


def _tars(folder: Path, out: Path, name: str, files: Sequence[Path]) -> list[Path]:
    """The files in as many plain tars as the limit asks for (weights hardly shrink)."""
    groups: list[list[Path]] = []
    size = LIMIT
    for path in files:
        length = path.stat().st_size + 1024
        if size + length > LIMIT:
            groups.append([])
            size = 0
        groups[-1].append(path)
        size += length
    return [_tar(folder, out / f"{name}{number}.tar", group, "w") for number, group in enumerate(groups, 1)]


def _tar(folder: Path, target: Path, files: Sequence[Path], mode: str) -> Path:
    with tarfile.open(target, mode) as tar:
        for path in sorted(files):
            tar.add(path, str(path.relative_to(folder)))
    return target
