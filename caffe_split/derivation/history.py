"""Continuing the parent's schedule: its solver state, made to fit the derived net.

A solver keeps one array of history (SGD's momentum; Adam two) per learnable parameter, in the net's order. A kernel
that the split moved keeps its history. New parameters start at rest, and where a solver divides by what it remembers
of squared gradients they are given a memory: see `new_history`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from caffe_split.backends.check_weights import Blobs
from caffe_split.derivation.new_history import Slot, squared_steps, squares
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.weights.solverstate import SolverState, read_solverstate
from caffe_split.net.layers import phase_layers
from caffe_split.net.resume import ARRAYS, Array
from caffe_split.net.state import TRAIN, NetState
from caffe_split.split import naming
from caffe_split.split.partition import Partition
from caffe_split.split.parts import Part


def state_beside(weights: Path) -> Path:
    """The solver state that was saved with a snapshot of weights. Raises `CaffeSplitError` where there is none."""
    name = weights.name[: -len(".h5")] if weights.name.endswith(".h5") else weights.name
    stem = name[: -len(".caffemodel")] if name.endswith(".caffemodel") else name
    for ending in (".solverstate", ".solverstate.h5"):
        if (weights.parent / (stem + ending)).is_file():
            return weights.parent / (stem + ending)
    raise CaffeSplitError(
        f"{weights}: --schedule continue needs the solver state that Caffe saved with it, "
        f"{weights.parent / stem}.solverstate, which is not there. Use --schedule restart, or another snapshot."
    )


def learnable(document: prototxt.Document, weights: Blobs, state: NetState = TRAIN) -> Iterator[Slot]:
    """The learnable parameters of the trained net in the solver's order; those shared by name come once."""
    seen: set[str] = set()
    for layer in phase_layers(document, state):
        names = layer.param_names()
        for index in range(len(weights.get(layer.name, ()))):
            name = names[index] if index < len(names) else ""
            if name in seen:
                continue
            if name:
                seen.add(name)
            yield layer.name, index


def parent_state(weights: Path, iteration: int | None, max_iter: int | None) -> tuple[Path, SolverState]:
    """The solver state saved with `weights`, and its file.

    Raises `CaffeSplitError` where there is none, where it is not of `iteration` (if given), and at the end of the
    training.
    """
    path = state_beside(weights)
    state = read_solverstate(path)
    if iteration is not None and state.iter != iteration:
        raise CaffeSplitError(f"{path}: it is of iteration {state.iter}, expected {iteration}. Was the file renamed?")
    if max_iter is not None and state.iter >= max_iter:
        raise CaffeSplitError(
            f"{path}: the training ends at its iteration {state.iter} (max_iter is {max_iter}); no schedule is left "
            "to continue. Use --schedule restart, or raise the solver's max_iter."
        )
    return path, state


def continued(
    path: Path,
    state: SolverState,
    parent: tuple[prototxt.Document, Blobs],
    derived: tuple[prototxt.Document, Blobs],
    splits: Mapping[str, tuple[Partition, Sequence[Part]]],
    *,
    learned_net: str,
    solver_type: str,
    trained_in: NetState = TRAIN,
) -> SolverState:
    """The solver state of the net `parent`, made to fit the net `derived` (document and blobs each).

    `splits` are the split layers, how each is divided and its parts. Iteration and step are the parent's. Raises
    `CaffeSplitError`, naming the file `path`, for a state that does not fit the parent or its solver, whose type is
    `solver_type`.
    """
    slots = list(learnable(*parent, trained_in))
    count = len(state.history)
    at_rest: tuple[Array, ...] = ("rest",)
    arrays = ARRAYS.get(solver_type, at_rest * (count // max(len(slots), 1)))
    if not slots or count != len(slots) * len(arrays):
        raise CaffeSplitError(
            f"{path}: {count} blobs of history, but {parent[0].filename} has {len(slots)} learnable parameters, "
            f"{len(arrays)} each by {solver_type}. Was it saved by a training of this net with this solver?"
        )
    partitions = {name: partition for name, (partition, _) in splits.items()}
    history: list[np.ndarray] = []
    for number, array in enumerate(arrays):
        first = number * len(slots)
        old = dict(zip(slots, state.history[first : first + len(slots)]))
        for slot, values in old.items():
            shape = parent[1][slot[0]][slot[1]].shape
            if tuple(values.shape) != tuple(shape):
                raise CaffeSplitError(
                    f"{path}: the history of layer '{slot[0]}', blob {slot[1]}, has shape {tuple(values.shape)}, and "
                    f"the blob {tuple(shape)}. Was it saved by a training of this net?"
                )
        moved = {**_new(old, splits, array), **_moved(old, partitions)}
        for name, index in learnable(*derived, trained_in):
            shape = derived[1][name][index].shape
            history.append(np.asarray(moved.get((name, index), np.zeros(shape)), np.float32).reshape(shape))
    return SolverState(state.iter, learned_net, state.current_step, history)


def _new(
    old: Mapping[Slot, np.ndarray],
    splits: Mapping[str, tuple[Partition, Sequence[Part]]],
    array: Array,
) -> dict[Slot, np.ndarray]:
    """What the parameters of splits start with; those that are missing start with 0."""
    found: dict[Slot, np.ndarray] = {}
    if array != "rest":
        for name, (_, parts) in splits.items():
            given = old[name, 0], old.get((name, 1))
            found.update((squares if array == "squares" else squared_steps)(parts, *given))
    return found


def _moved(old: Mapping[Slot, np.ndarray], partitions: Mapping[str, Partition]) -> dict[Slot, np.ndarray]:
    """History under the names of the derived net; each half of a split layer gets the rows of its kernels."""
    moved = {}
    for (name, index), values in old.items():
        if name not in partitions:
            moved[name, index] = values
            continue
        # A bias has one axis, or four in the oldest files, the first three of size 1.
        rows = values.reshape(-1) if index else values
        moved[naming.fast_half(name), index] = rows[list(partitions[name].fast)]
        moved[naming.slow_half(name), index] = rows[list(partitions[name].slow)]
    return moved
