"""What the snapshots of a training are called, and which there are."""

from __future__ import annotations

import os
import re
from pathlib import Path

from caffe_split.files import PathLike


def snapshot_prefix(solver: PathLike, written: str) -> str:
    """What the names of a solver's snapshots begin with, given its file and the snapshot_prefix that is written.

    As Caffe does it: an empty snapshot_prefix becomes the path of the solver without its ending; one that is a folder
    becomes a file of the solver's name in it.
    """
    if not written:
        return str(Path(solver).with_suffix(""))
    return str(Path(written) / Path(solver).stem) if Path(written).is_dir() else written


def snapshot_folder(prefix: PathLike) -> Path:
    """The folder of the snapshots whose names begin with `prefix`; one that ends in a slash is that folder itself."""
    return Path(os.path.dirname(prefix) or ".")


def prefix_problem(prefix: PathLike) -> str | None:
    """Why no snapshots can be written whose names begin with `prefix`, in words; None where they can."""
    folder = snapshot_folder(prefix)
    if not folder.is_dir():
        return (
            f"snapshot_prefix: no folder {folder} seen from {Path.cwd()}; make it, or change to the directory that the "
            "paths are relative to"
        )
    if not os.access(folder, os.W_OK | os.X_OK):
        return f"snapshot_prefix: the folder {folder} cannot be written; change its permissions, or name another"
    return None


def find_snapshots(prefix: PathLike, ending: str = "caffemodel") -> dict[int, Path]:
    """Iteration -> `{prefix}_iter_N.{ending}`, or `.{ending}.h5`, ascending."""
    pattern = re.compile(re.escape(os.path.basename(prefix)) + r"_iter_(\d+)\." + re.escape(ending) + r"(\.h5)?")
    found: dict[int, Path] = {}
    folder = snapshot_folder(prefix)
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match:
            found.setdefault(int(match.group(1)), path)
    return dict(sorted(found.items()))
