"""Where the files of a study are, relative to its folder, in which every step runs."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from caffe_split import jsontext
from caffe_split.errors import CaffeSplitError
from caffe_split.files import make_folder, remove_folder, write_atomic
from caffe_split.study.model import Study

PLAN = Path("plan.json")
_OURS = re.compile(
    r".*\.(prototxt|caffemodel|solverstate|h5|log|failed\d*|lock|training)|manifest\.json|gradients\.json"
)


def read_json(path: Path) -> dict[str, Any]:
    """The value in a file that the study wrote. Raises `CaffeSplitError` where the file is not whole."""
    again = "remove it and start the study again."
    if path.name == PLAN.name:
        # Without it the folder is none of a study.
        again = "put a copy of it in its place, or choose another --out."
    try:
        value: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{path}: cannot be read ({error}); {again}") from None
    return value


def write_json(path: Path, value: Any) -> None:
    """Write a file of the study, whole or not at all."""
    make_folder(path.parent)
    write_atomic(path, (jsontext.dumps(value) + "\n").encode())


def open_study(out: Path = Path()) -> Study:
    """The study whose folder is `out`."""
    return Study.from_dict(read_json(out / PLAN)["study"])


def run_folder(seed: int, name: str) -> Path:
    """The folder of one training."""
    return Path(f"s{seed}") / name


def made(folder: Path, files: Mapping[str, bytes]) -> None:
    """Make a folder with these files; one that holds the same files is kept, with what was trained in it."""
    if not all((folder / name).is_file() and (folder / name).read_bytes() == data for name, data in files.items()):
        remove_folder(folder, is_ours)
        make_folder(folder)
        for name, data in files.items():
            write_atomic(folder / name, data)


def is_ours(path: Path) -> bool:
    """Whether a file in a run's folder is one that the steps of a study write, or a training that they run."""
    return _OURS.fullmatch(path.name) is not None


def prefix(study: Study, folder: Path) -> str:
    """The snapshot_prefix of the training in a folder."""
    return str(folder / study.solver.parent.name)
