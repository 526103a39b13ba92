"""The folder of an extraction that has not all its rows yet, which the same command takes up."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import Any

from caffe_split import jsontext
from caffe_split.errors import BusyError, CaffeSplitError
from caffe_split.files import locked, remove_file, write_atomic
from caffe_split.inference.feature_files import file_names
from caffe_split.inference.rows import GrowingRows

JOB = "job.json"  # says which extraction the folder is of; with "written", its files, when all rows are there


def read_job(work: Path) -> dict[str, Any]:
    """What a folder is of. Raises `OSError` and `ValueError` where nothing says it."""
    found: dict[str, Any] = json.loads((work / JOB).read_text(encoding="utf-8"))
    return found


def write_job(work: Path, job: dict[str, Any]) -> None:
    """Say what a folder is of."""
    write_atomic(work / JOB, jsontext.dumps(job).encode())


@contextlib.contextmanager
def alone(work: Path) -> Iterator[None]:
    """Hold the unfinished folder. Raises `CaffeSplitError` where another process does."""
    try:
        with locked(work.with_name(f".{work.name}.lock"), work):
            yield
    except BlockingIOError:
        raise BusyError(f"another process extracts into {work}; wait for its end, or choose another --out.") from None


def take_up(work: Path, job: dict[str, Any]) -> bool:
    """Whether the unfinished folder, if it is there, has all its rows in their final form already.

    Images that have no rows yet may be others than before: a damaged one ended the job, and was replaced or removed.
    What another job left that ended before its first batch is removed. Raises `CaffeSplitError` for the folder of
    another job, or of somebody else.
    """
    if not work.exists() or all(path.name.startswith(".") for path in work.iterdir()):
        return False  # a process that was killed at its first file leaves an empty one
    wanted = json.loads(jsontext.dumps(job))
    try:
        found = read_job(work)
    except (OSError, ValueError):
        found = {}
    other = [name for name in wanted if found.get(name) != wanted[name]]
    if other and not _same_so_far(work, found, wanted, other):
        begun = _begun(work, found, wanted)
        if begun is not None:
            for path in begun:
                remove_file(path)
            return False
        what = f"of another extraction ({', '.join(other)} differ)" if found else "no unfinished extraction"
        raise CaffeSplitError(f"{work} is {what}; remove it, or choose another --out.")
    return "written" in found


def _rows_of(work: Path, job: dict[str, Any]) -> GrowingRows:
    return GrowingRows({name: work / file for name, file in file_names(job["blobs"], ".npy").items()}, job["batch"])


def _same_so_far(work: Path, found: dict[str, Any], wanted: dict[str, Any], other: Collection[str]) -> bool:
    """Whether two jobs differ in images alone, and only in those that have no rows yet."""
    if "images" not in other or not set(other) <= {"images", "rows"} or found.keys() != wanted.keys():
        return False
    done = _rows_of(work, found).done
    return bool(found["images"][:done] == wanted["images"][:done])


def _begun(work: Path, found: dict[str, Any], wanted: dict[str, Any]) -> list[Path] | None:
    """The files of another job that has no batch of rows yet; None where it has, and where other files are there."""
    if found.keys() != wanted.keys():
        return None
    files = {*(work / file for file in file_names(found["blobs"], ".npy").values()), work / JOB}
    there = list(work.iterdir())
    if set(there) - files or _rows_of(work, found).done:
        return None
    return there
