"""Finding the files of a training: its solver, its net, its snapshots."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike
from caffe_split.proto import prototxt

# A path in a prototxt means what it means to Caffe: relative to the directory in which caffe is started.


@dataclass(frozen=True)
class Training:
    """A net and, where there is one, the solver that trains it."""

    net_path: Path
    net: prototxt.Document
    solver_path: Path | None
    solver: prototxt.Document | None

    @property
    def prefix(self) -> str | None:
        """The solver's snapshot_prefix; None without a solver.

        As Caffe has it: without one the solver's own name serves, and one that is a folder gets that name added.
        """
        if self.solver is None or self.solver_path is None:
            return None
        prefix = self.solver.get("snapshot_prefix", None)
        if not prefix:
            return str(self.solver_path.with_suffix(""))
        return str(Path(prefix) / self.solver_path.stem) if Path(prefix).is_dir() else str(prefix)

    def snapshots(self, ending: str = "caffemodel") -> dict[int, Path]:
        """Iteration -> snapshot file, in order; HDF5 ones (`.h5`) too, binaryproto first where both exist."""
        if self.prefix is None:
            return {}
        return find_snapshots(self.prefix, ending)

    def snapshot(self, iteration: int) -> Path:
        """The snapshot of that iteration. Raises `CaffeSplitError` naming those that exist."""
        found = self.snapshots()
        if iteration in found:
            return found[iteration]
        if self.prefix is None:
            raise CaffeSplitError(
                f"{self.net_path}: no solver beside it names this net, so there is no telling where its snapshots "
                "are. Give the solver instead, or --weights FILE."
            )
        known = ", ".join(map(str, found)) or "there is none"
        raise CaffeSplitError(
            f"no snapshot of iteration {iteration} at {self.prefix}_iter_{iteration}.caffemodel[.h5] "
            f"(seen from {Path.cwd()}). Iterations with one: {known}."
        )


def find_snapshots(prefix: PathLike, ending: str = "caffemodel") -> dict[int, Path]:
    """Iteration -> `{prefix}_iter_N.{ending}`, or `.{ending}.h5`, ascending."""
    base = Path(prefix)
    pattern = re.compile(re.escape(base.name) + r"_iter_(\d+)\." + re.escape(ending) + r"(\.h5)?")
    found: dict[int, Path] = {}
    folder = base.parent
    for path in sorted(folder.iterdir()) if folder.is_dir() else []:
        match = pattern.fullmatch(path.name)
        if match:
            found.setdefault(int(match.group(1)), path)
    return dict(sorted(found.items()))


def open_training(path: PathLike) -> Training:
    """Open a net or a solver, told apart by content, and find the other one.

    From a net, the solver is the one beside it whose `net` or `train_net` names it; where several do, the
    caller has to give the solver. Raises `CaffeSplitError`.
    """
    document = prototxt.read(path)
    if document.kind == "solver":
        net_path = solver_net_path(document)
        return Training(net_path, prototxt.read(net_path), Path(path), document)
    named = [(other, solver) for other, solver in _solvers_beside(Path(path)) if _names(solver, Path(path))]
    if len(named) > 1:
        raise CaffeSplitError(
            f"{path}: several solvers name this net: {', '.join(str(p) for p, _ in named)}. Give one of them instead."
        )
    solver_path, solver = named[0] if named else (None, None)
    return Training(Path(path), document, solver_path, solver)


def solver_net_path(solver: prototxt.Document) -> Path:
    """The file of the net that a solver trains. Raises `CaffeSplitError` where it names none or it is not there."""
    for key in ("net", "train_net"):
        if solver.has(key):
            path = Path(str(solver.get(key)))
            if not path.is_file():
                raise CaffeSplitError(
                    f'{solver.filename}: {key} is "{path}", which is not there seen from {Path.cwd()}. Paths in a '
                    "prototxt are relative to the directory in which caffe is started: change to it."
                )
            return path
    raise CaffeSplitError(f"{solver.filename}: the solver names no net file (`net` or `train_net`).")


def _solvers_beside(net: Path) -> list[tuple[Path, prototxt.Document]]:
    found = []
    for path in sorted(net.parent.glob("*.prototxt")):
        if path == net:
            continue
        try:
            document = prototxt.read(path)
        except CaffeSplitError:
            continue  # Not ours to judge: only a solver that can be read can name this net.
        if document.kind == "solver":
            found.append((path, document))
    return found


def _names(solver: prototxt.Document, net: Path) -> bool:
    for key in ("net", "train_net"):
        named = solver.get(key, None)
        if named is None:
            continue
        if Path(named).exists():
            return Path(named).resolve() == net.resolve()
        # Started from elsewhere: then the name is all there is to go by.
        return Path(named).name == net.name
    return False
