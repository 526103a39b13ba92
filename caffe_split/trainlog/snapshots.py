"""The files around a log: the snapshots that its run wrote, and the weights from which it started."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from caffe_split.files import MANIFEST

if TYPE_CHECKING:
    from caffe_split.trainlog.model import TrainingLog


@dataclass(frozen=True)
class Snapshot:
    """A file of weights. iteration: the one it was written at.

    path: where the file is; as printed in the log if it does not exist. run: the position of the run that wrote it
    last. began: if these are not the weights of the run that was asked about, as another run wrote them: the iteration
    at which that one began; else -1.
    """

    iteration: int
    path: str
    exists: bool
    run: int = 0
    began: int = -1


def nearest_snapshot(log: TrainingLog, iteration: int, line: int | None = None) -> Snapshot | None:
    """The snapshot of weights nearest to an iteration; those that exist come first. None if the log names none.

    line: one of the run whose weights are asked for: a run that resumed from an earlier iteration has others, and may
    have written the same file again. None: any run's.

    A snapshot is looked for beside the log, with as many of the folders in its printed path as are there (so that it
    is found where the whole folder has been moved), and then at the printed path, from where this program runs.
    """
    folder = Path(log.path).parent
    own = None if line is None else log.run_of(line)
    found: dict[str, Snapshot] = {}  # what was written last into each file
    for at, run in enumerate(log.runs):
        for event in run.of_kind("snapshot"):
            printed = event.path
            if printed is None or ".solverstate" in printed:
                continue
            path = Path(printed)
            first = 1 if path.is_absolute() else 0
            places = [folder.joinpath(*path.parts[start:]) for start in range(first, len(path.parts))]
            there = next((place for place in [*places, path] if place.is_file()), None)
            name = printed if there is None else str(there)
            mine = own is None or log.same_weights(own, at, event.iteration)
            found[name] = Snapshot(event.iteration, name, there is not None, at, -1 if mine else run.first_iteration)

    def order(snapshot: Snapshot) -> tuple[bool, int, bool, int]:
        away = abs(snapshot.iteration - iteration)
        return not snapshot.exists, away, snapshot.began >= 0, snapshot.iteration

    return min(found.values(), key=order, default=None)


def started_from(log: TrainingLog) -> str:
    """The weights from which the run started, by their last folder and name; "" if they were random or are not known.

    Of a derived net, whose own first weights `make-derived` wrote, those of the net that was split.
    """
    path = _split_weights(Path(log.path).parent)
    if not path:
        first = log.runs[0].of_kind("weights", "resume") if log.runs else []
        path = first[0].text.partition(" from ")[2].strip() if first else ""
    return "/".join(Path(path).parts[-2:])


def _split_weights(folder: Path) -> str:
    """The weights that were split, as the manifest in a folder says; "" if there is none."""
    try:
        return str(json.loads((folder / MANIFEST).read_bytes())["plan"]["weights"] or "")
    except (OSError, ValueError, KeyError, TypeError, RecursionError):
        return ""  # no manifest, or another program's
