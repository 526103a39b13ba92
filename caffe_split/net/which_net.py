"""Which net a solver trains, and which solvers train a net."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt

Solver = tuple[Path, prototxt.Document]

# A path in a prototxt means what it means to Caffe: relative to the directory in which caffe is started.


def expect_one_net(solver: prototxt.Document) -> None:
    """Raises `CaffeSplitError` unless the solver names one training net."""
    given = [name for name in ("net", "net_param", "train_net", "train_net_param") if solver.has(name)]
    if len(given) != 1:
        raise CaffeSplitError(
            f"{solver.filename}: a solver names one training net, by net, net_param, train_net or train_net_param; "
            f"found {' and '.join(given) or 'none'}"
        )


def inline_net(solver: prototxt.Document) -> tuple[str, prototxt.Message] | None:
    """The training net that stands in the solver itself, and the name of its field."""
    for key in ("net_param", "train_net_param"):
        message = solver.sub(key)
        if message is not None:
            return key, message
    return None


def inline_name(solver_path: Path, key: str) -> Path:
    """The file that a net within a solver becomes: beside `s.prototxt`, its `net_param` is `s_net.prototxt`."""
    return solver_path.with_name(f"{solver_path.stem}_{key.replace('_param', '')}.prototxt")


def _quoted(path: Path) -> str:
    """A path in quotes; one that is not in UTF-8 is shown in Latin-1, in which any bytes are text."""
    written = os.fsencode(path)
    try:
        return f'"{written.decode()}"'
    except UnicodeDecodeError:
        return f'"{written.decode("latin-1")}" (in Latin-1: the solver is not in UTF-8)'


def solver_net_path(solver: prototxt.Document) -> Path:
    """The file of the net that a solver trains. Raises `CaffeSplitError` where it names none or it is not there."""
    for key in ("net", "train_net"):
        if solver.has(key):
            return net_file(solver, key, str(solver.get(key)))
    inline = inline_net(solver)
    if inline is None:
        raise CaffeSplitError(f"{solver.filename}: the solver names no net file (`net` or `train_net`).")
    raise needed_as_file(solver, inline[0], inline_name(Path(solver.filename), inline[0]))


def net_file(solver: prototxt.Document, key: str, name: str) -> Path:
    """The file of a net that a field of a solver names. Raises `CaffeSplitError` where it is not there."""
    if not name:
        raise CaffeSplitError(f'{solver.filename}: {key} is "", expected the file of a net.')
    path = Path(name)
    if not path.is_file():
        raise CaffeSplitError(
            f"{solver.filename}: {key} is {_quoted(path)}, which is not there seen from {Path.cwd()}. Paths in "
            f"a prototxt are relative to the directory in which caffe is started: {_where(path, solver)}."
        )
    return path


def needed_as_file(solver: prototxt.Document, key: str, path: Path) -> CaffeSplitError:
    """The error for a net within a solver where only a file will do; `path` is the name that it gets in one."""
    return CaffeSplitError(
        f"{solver.filename}: its net stands in the solver itself, and is needed as a file here. Write what is within "
        f"{key} {{ ... }} into {path.name}, and give that file; `caffe-split make-derived --control` does so."
    )


def solver_test_net_fields(solver: prototxt.Document) -> list[prototxt.Field]:
    """The fields of a solver that name test nets, in the order in which Caffe makes these nets."""
    return [*solver.all_fields("test_net_param"), *solver.all_fields("test_net")]


def _where(path: Path, solver: prototxt.Document) -> str:
    """What to do about a path that is not there: the nearest directory from which it is."""
    here, file = Path.cwd(), Path(solver.filename).resolve()
    for place in dict.fromkeys((file.parent, *file.parents, *here.parents)):
        if place != here and is_there(place / path) and not path.is_absolute():
            return f"change to {place}, where it is, and give {os.path.relpath(file, place)}"
    return "change to it"


def solvers_in(folder: Path) -> list[Solver]:
    """The solvers among a folder's prototxt files, sorted by name; what cannot be read is none."""
    found = []
    for path in sorted(folder.glob("*.prototxt")):
        try:
            document = prototxt.read(path)
        except CaffeSplitError:
            continue  # Other files in the folder may be anything.
        if document.kind == "solver":
            found.append((path, document))
    return found


def solvers_naming(net: Path) -> list[Solver]:
    """The solvers beside a net that train it."""
    return that_train((path, solver) for path, solver in solvers_in(net.parent) if trains(solver, net))


def that_train(solvers: Iterable[Solver]) -> list[Solver]:
    """Without those of no iterations, which test what another one has trained, as `multisplit` leaves them; or all."""
    every = list(solvers)
    return [(path, solver) for path, solver in every if solver.get("max_iter", 0)] or every


def not_taken(net: Path) -> list[str]:
    """A sentence for each solver beside a net that may be meant for it, and names one that lies nowhere."""
    notes = []
    for path, solver in solvers_in(net.parent):
        name = Path(_trained(solver) or "")
        lost = not any(is_there(start / name) for start in _starts(net))
        if lost and name.name == net.name and not trains(solver, net):
            notes.append(
                f"{path}: its net is {name}, of another folder, which is not there; it is not taken for the solver of "
                f"{net}: if it is that, correct its net"
            )
    return notes


def is_there(path: Path) -> bool:
    """Whether something lies at `path`; False also where the system cannot look (a name that is too long)."""
    try:
        return path.exists()
    except (OSError, ValueError):
        return False


def trains(solver: prototxt.Document, net: Path) -> bool:
    """Whether a solver trains the net of that file."""
    name = _trained(solver)
    return name is not None and _is_file(name, net)


def _trained(solver: prototxt.Document) -> str | None:
    """What a solver says where the net is that it trains; None where it names no file."""
    names = [solver.get(key, None) for key in ("net", "train_net")]
    return next((str(name) for name in names if name is not None), None)


def place_among_tests(solver: prototxt.Document, net: Path) -> int | None:
    """The place of a file's net among the test nets of a solver, in Caffe's order; None where it is none of them."""
    named = [value for field in solver_test_net_fields(solver) for value in field.values()]
    for place, value in enumerate(named):
        if not isinstance(value, prototxt.Message) and _is_file(str(value), net):
            return place
    return len(named) if solver.has("net") and trains(solver, net) else None


def _is_file(name: str, net: Path) -> bool:
    """Whether the name in a solver is that of a net's file."""
    path, file = Path(name), Path(os.path.abspath(net))
    for start in _starts(net):
        if is_there(start / path):
            return (start / path).resolve() == file.resolve()
    # Nets are often called alike: one of another folder, or of one that has another name now, is not this one.
    return path.name == file.name and (path.parent.name in ("", "..") or path.parent.name == file.parent.name)


def _starts(net: Path) -> tuple[Path, ...]:
    """The folders in which caffe may be meant to be started: this one, or one above the net, as its path is given."""
    return (Path.cwd(), *Path(os.path.abspath(net)).parents)
