"""What a bare machine with a device needs, in folders small enough to be carried one by one."""

from __future__ import annotations

import shutil
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from gpu_study_parts.data import pack
from gpu_study_parts.start import BASELINE, ROOT


def write_pack(folder: Path, stores: Path, parts: int) -> list[tuple[Path, int]]:
    """`folder`/code, this checkout's part of it, and `folder`/part1 to partN, the images of the LMDBs in `stores`.

    Returns the folders with their sizes in bytes. Raises `CaffeSplitError` where `folder` exists, or for other images.
    """
    if folder.exists():
        raise CaffeSplitError(f"{folder} exists; nothing is overwritten. Remove it or choose another folder.")
    if parts < 1:
        raise CaffeSplitError(f"--parts {parts}: expected 1 or more.")
    names = [folder / f"part{number}" for number in range(1, parts + 1)]
    pack(stores, names)
    code, skip = folder / "code", shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "caffe_split", code / "caffe_split", ignore=skip)
    shutil.copytree(ROOT / "tools/gpu_study_parts", code / "tools/gpu_study_parts", ignore=skip)
    shutil.copy2(ROOT / "tools/gpu_study", code / "tools/gpu_study")
    shutil.copytree(BASELINE, code / BASELINE.relative_to(ROOT))
    return [(path, sum(file.stat().st_size for file in path.rglob("*") if file.is_file())) for path in (code, *names)]
