"""What is checked before a training starts, alike for all back ends.

Caffe itself warns of weights that fit no layer, or ends with a check that names no file; the log is begun by then.
"""

from __future__ import annotations

import difflib
import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from caffe_split.backends.check_data import check_data
from caffe_split.backends.check_weights import check_start
from caffe_split.backends.protocol import TrainingRequest
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_solver
from caffe_split.formats.prototxt.proto2 import caffe, with_forks
from caffe_split.formats.weights import hdf5
from caffe_split.formats.weights.caffemodel import read_solverstate, read_weights
from caffe_split.formats.weights.solverstate import SolverState
from caffe_split.layertypes.cost import listing
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.resume import AUTO, HISTORIES
from caffe_split.net.snapshots import prefix_problem, snapshot_prefix
from caffe_split.net.solver_nets import nets_of
from caffe_split.net.state import NetState
from caffe_split.net.training import weights_named


def check_request(request: TrainingRequest, runs_program: bool) -> int:
    """Check a training before anything is written. Returns the iteration at which it begins.

    `runs_program` says whether Caffe trains, not our engine, which also knows some fields of forks.

    Raises `CaffeSplitError` for fields of the solver that are not read, a snapshot_prefix in a folder that is not
    there, names that an HDF5 snapshot cannot have, data that are missing, weights that are none or fit no layer, and a
    solver state of another net. A program that the user names may be a fork's: its own fields are left to it.
    """
    solver = read_solver(request.solver, upgrade=True)
    if request.program is None:
        _check_fields(solver, runs_program)
    problem = prefix_problem(snapshot_prefix(request.solver, str(solver.get("snapshot_prefix", ""))))
    if problem is not None:
        raise CaffeSplitError(f"{request.solver}: {problem}")
    try:
        nets = list(nets_of(request.solver))
    except CaffeSplitError:
        if request.program is None:
            raise
        return 0
    check_data(nets)
    if str(solver.get("snapshot_format")) == "HDF5":
        _check_names(request.solver, *nets[0])
    for file in weights_named(solver.get_all("weights") if request.weights is None else [request.weights]):
        weights = _weights(Path(file))
        for number, net in enumerate(nets):
            check_start(*net, weights, Path(file), tests=number > 0)
    if request.snapshot is None or request.snapshot == AUTO:
        return 0
    return _check_state(Path(request.snapshot), nets[0], str(solver.get("type", "SGD"))).iter


def _check_fields(solver: prototxt.Document, runs_program: bool) -> None:
    """Raises `CaffeSplitError` for all fields that are not read, each with the nearest, and for an unknown type."""
    known, forks = (schema.messages["SolverParameter"].fields for schema in (caffe(), with_forks()))
    lines, engine = [], False
    for field in solver.fields:
        where = f"{solver.filename}:{field.line}: '{field.name}'"
        if field.name not in forks:
            near = difflib.get_close_matches(field.name, known, 1, 0.7)
            hint = f"; did you mean '{near[0]}'?" if near else ""
            lines.append(f"{where} is no field of a solver{hint}")
        elif runs_program and field.name not in known:
            engine = True
            lines.append(f"{where} is a field of forks, which the torch engine reads")
    if lines:
        nobody = "Caffe does not read" if engine else "neither Caffe nor the engine reads"
        raise CaffeSplitError(
            f"{nobody} these fields; name the program of a fork that does, also one on PATH: "
            f"caffe-split train {shlex.quote(solver.filename)} --engine caffe --caffe PROGRAM\n  " + "\n  ".join(lines)
        )
    kind = str(solver.get("type", "SGD"))
    if kind not in HISTORIES:
        named = solver.field("type")
        where = solver.filename if named is None else f"{solver.filename}:{named.line}"
        raise CaffeSplitError(f"{where}: there is no solver type '{kind}'; expected {', '.join(HISTORIES)}")


def _check_names(solver: Path, net: prototxt.Document, state: NetState) -> None:
    """Raises `CaffeSplitError` with the layers of whose names an HDF5 snapshot can have none."""
    strange = [layer.where for layer in phase_layers(net, state) if not hdf5.takes_name(layer.name)]
    if strange:
        raise CaffeSplitError(
            f"{solver}: snapshot_format: HDF5, and {listing(strange, 5)} {hdf5.NO_NAME}; the training would end at its "
            "first snapshot. Take snapshot_format out, or rename the layers"
        )


def _weights(path: Path) -> Mapping[str, Sequence[np.ndarray]]:
    if path.name.endswith((".solverstate", ".solverstate.h5")):
        raise CaffeSplitError(
            f"{path}: this is a solver state, and weights go there; `caffe-split train --snapshot "
            f"{shlex.quote(str(path))}` goes on from it"
        )
    return read_weights(path)


def _check_state(path: Path, net: tuple[prototxt.Document, NetState], kind: str) -> SolverState:
    """The solver state in `path`. Raises `CaffeSplitError` if it is none, or of another net or solver type."""
    if path.name.endswith((".caffemodel", ".caffemodel.h5")):
        state = path.with_name(path.name.replace(".caffemodel", ".solverstate"))
        there = f"; its solver state is {state}" if state.is_file() else ""
        raise CaffeSplitError(
            f"{path}: these are weights, and --snapshot takes a solver state{there}. To start from weights give "
            f"--weights {path}"
        )
    state_read = read_solverstate(path)
    if not state_read.learned_net:
        return state_read
    weights_path = Path(state_read.learned_net)
    if not weights_path.is_file():
        raise CaffeSplitError(f"{path}: its weights are {weights_path}, which is not there seen from {Path.cwd()}.")
    weights = read_weights(weights_path)
    check_start(*net, weights, weights_path)
    _check_history(path, state_read, net, weights, kind)
    return state_read


def _check_history(
    path: Path,
    state: SolverState,
    net: tuple[prototxt.Document, NetState],
    weights: Mapping[str, Sequence[np.ndarray]],
    kind: str,
) -> None:
    """Raises `CaffeSplitError` where the history has not an array for each parameter that the net learns."""
    layers = phase_layers(*net)
    shapes = infer_shapes(layers)
    owners: set[str] = set()
    sizes: list[tuple[str, int]] = []
    for layer in layers:
        blobs = [*shapes.params.get(layer.name, ()), *shapes.state.get(layer.name, ())]
        names = layer.param_names()
        for index, shape in enumerate(blobs or [array.shape for array in weights.get(layer.name, ())]):
            name = names[index] if index < len(names) else ""
            if not name or name not in owners:
                sizes.append((layer.name, int(np.prod(shape))))
                owners.add(name)
    copies = HISTORIES.get(kind, 1)
    if len(state.history) != copies * len(sizes):
        raise CaffeSplitError(
            f"{path}: {len(state.history)} blobs of history; this net under solver type {kind} has "
            f"{copies * len(sizes)}. Was it saved by a training of this net?"
        )
    for array, (name, size) in zip(state.history, copies * sizes):
        if array.size != size:
            raise CaffeSplitError(
                f"{path}: the history of layer '{name}' has shape {tuple(array.shape)}, and its blob {size} values. "
                "Was it saved by a training of this net?"
            )
