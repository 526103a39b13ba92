"""The few solver settings that following a training needs."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.net.which_net import solvers_naming
from caffe_split.net.which_solver import listing


@dataclass(frozen=True)
class SolverSettings:
    """Of a solver: what following its training needs.

    max_iter: the iterations to do, 0 where it does not say. snapshot_after_train: whether it writes a snapshot when it
    ends. prefix: what the names of its snapshots begin with.
    """

    max_iter: int
    snapshot_after_train: bool
    prefix: str


def solver_settings(path: str | os.PathLike[str]) -> SolverSettings:
    """Read a solver. Raises `CaffeSplitError` where there is no such file, and for a net in place of a solver."""
    from caffe_split.formats import prototxt
    from caffe_split.net.snapshots import snapshot_prefix

    solver = Path(path)
    if not solver.is_file():
        folder = solver if solver.is_dir() else solver.parent
        there = sorted(str(path) for path in folder.glob("*solver*.prototxt"))
        hint = f"; solvers there: {', '.join(there)}" if there else ""
        what = "it is a folder" if solver.is_dir() else "no such file"
        raise CaffeSplitError(f"no solver {solver}: {what}{hint}")
    document = prototxt.read(solver)
    if document.get("layer") is not None or document.get("layers") is not None:
        named = listing(solvers_naming(solver))
        raise CaffeSplitError(
            f"{solver} is a net, not a solver; give the solver file that names it" + (f":{named}" if named else "")
        )
    after = document.get("snapshot_after_train")
    return SolverSettings(
        max_iter=int(document.get("max_iter") or 0),
        snapshot_after_train=str(after).lower() not in ("false", "0", "f"),
        prefix=snapshot_prefix(solver, str(document.get("snapshot_prefix", ""))),
    )
