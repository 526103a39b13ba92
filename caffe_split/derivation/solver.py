"""The solver of a derived net: its parent's, with the names of the new files."""

from __future__ import annotations

from pathlib import Path

from caffe_split.backends.check_weights import WEIGHTS_NAME
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.upgrade import upgrade
from caffe_split.net.state import NetState
from caffe_split.net.training import Training
from caffe_split.net.which_net import inline_name, solver_test_net_fields

Net = tuple[Path, prototxt.Document]


def derived_solver(training: Training, out: Path) -> tuple[prototxt.Document, list[Net], list[Path]]:
    """The parent's solver in today's form, training the derived net from its weights into the folder `out`.

    Where another state was asked for (`Training.asked_for`), it trains in that one.
    Nets that stand in the solver itself become files of their own, beside it. Returns the solver; its inner test
    nets as (path, document), the path being the name that each gets; and the paths of the test nets it names. All
    these are to be derived, too, and written into `out` under their names.
    """
    assert training.solver is not None and training.solver_path is not None and training.prefix is not None
    solver = training.solver.copy()
    upgrade(solver)
    key = _name_net(solver, training, out)
    inner, named = _name_test_nets(solver, training.solver_path, out)
    solver.set("snapshot_prefix", str(out / Path(training.prefix).name))
    if training.state.phase == "TRAIN" and training.state != training.state_in("TRAIN"):
        _set_state(solver, training.state)
    solver.remove("weights")
    solver.add("weights", str(out / WEIGHTS_NAME), after=solver.field(key))
    return solver, inner, named


def _set_state(solver: prototxt.Document, state: NetState) -> None:
    """Let a solver train in `state`, which was asked for in place of its own."""
    solver.remove("train_state")
    level = [("level", state.level)] if state.level else []
    solver.add("train_state", [*level, *(("stage", stage) for stage in state.stages)])


def solver_type(solver: prototxt.Document) -> str:
    """The solver's update method by its name today, also where the file has the old `solver_type`."""
    today = solver.copy()
    upgrade(today)
    return str(today.get("type", "SGD"))


def _name_net(solver: prototxt.Document, training: Training, out: Path) -> str:
    """Name the derived training net; returns the name of the field that does."""
    name = str(out / training.net_path.name)
    for key in ("net", "train_net"):
        if solver.has(key):
            solver.set(key, name)
            return key
    key = "net" if solver.has("net_param") else "train_net"
    field = solver.field(f"{key}_param")
    assert field is not None
    solver.replace(field, [prototxt.field(key, name)])
    return key


def _name_test_nets(solver: prototxt.Document, solver_path: Path, out: Path) -> tuple[list[Net], list[Path]]:
    """Name the derived test nets, in Caffe's order: inner ones first, then named ones."""
    inner = [
        (inline_name(solver_path, f"test{index}_net_param"), solver.inner(message))
        for index, message in enumerate(solver.subs("test_net_param"))
    ]
    named = [Path(str(name)) for name in solver.get_all("test_net")]
    old = solver_test_net_fields(solver)
    if old:
        paths = [path for path, _ in inner] + named
        for field in old[1:]:
            solver.remove(field)
        solver.replace(old[0], [prototxt.field("test_net", str(out / path.name)) for path in paths])
    return inner, named


def testing_solver(solver: prototxt.Document, net: Path, prefix: str) -> prototxt.Document:
    """A solver that tests `net` once and trains nothing: `solver` with no iterations, displays or snapshots.

    The last test in a training's own log is not that of its last snapshot where the end falls on a display: then
    BatchNorm has seen one more batch in between.
    """
    testing = solver.copy()
    upgrade(testing)
    settings = {"net": str(net), "max_iter": 0, "display": 0, "snapshot": 0, "snapshot_prefix": prefix}
    for key, value in {**settings, "snapshot_after_train": False, "test_initialization": True}.items():
        testing.set(key, value)
    for key in ("weights", "net_param", "train_net", "train_net_param"):
        testing.remove(key)
    return testing
