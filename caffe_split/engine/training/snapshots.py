"""Reading and writing a training's weights and solver states, in Caffe's formats."""

from __future__ import annotations

import contextlib
from collections.abc import Container, Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from caffe_split.engine.log import Log
from caffe_split.engine.model.net import Net
from caffe_split.engine.parallel.group import Group
from caffe_split.engine.training.updates import Updater
from caffe_split.errors import CaffeSplitError
from caffe_split.files import remove_file, replace_file
from caffe_split.formats.weights.caffemodel import read_weights, write_weights
from caffe_split.formats.weights.hdf5 import NO_NAME, takes_name
from caffe_split.formats.weights.solverstate import SolverState, read_solverstate, write_solverstate
from caffe_split.net.resume import is_whole, newest_pair


class Snapshots:
    """The snapshots of a training.

    Args:
        prefix: what their names begin with.
        hdf5: whether they are HDF5 files; else binary proto.
        nets: the TRAIN net, and the TEST nets, which share its blobs.
        updater: has the history.
        log: gets Caffe's lines.
        group: its first process writes the files.

    Attributes:
        guard: a context that is entered while a snapshot is written.

    Raises `CaffeSplitError` for a layer of whose name the snapshots can have none.
    """

    def __init__(self, prefix: str, hdf5: bool, nets: Sequence[Net], updater: Updater, log: Log, group: Group) -> None:
        self.prefix, self._hdf5, self._updater = prefix, hdf5, updater
        self._net, *self._tests = nets
        for layer in self._net.layers:
            if hdf5 and not takes_name(layer.name):
                raise layer.error(f"it {NO_NAME}; take snapshot_format: HDF5 out of the solver, or rename it.")
        self._log, self._group = log, group
        self._written: list[Path] = []
        self._given: set[str] = set()  # the layers that a weights file has given blobs
        self.guard: contextlib.AbstractContextManager[object] = contextlib.nullcontext()

    def load(self, name: str) -> None:
        """Load the weights file `name` into the TRAIN net and into the layers that only a test net has."""
        weights = read_weights(name)
        self._load(weights, name, self._load_own(weights, name))

    def _load(self, weights: Mapping[str, Sequence[np.ndarray]], name: str, others: Container[str] = ()) -> None:
        """Load weights into the TRAIN net, and log what it or the file lacks; `others` are in other nets."""
        strange, missing = self._net.load(weights, name)
        for layer in strange:
            if layer not in others:
                self._log.info(f"Ignoring source layer {layer}")
        for layer in missing:
            if layer not in self._given:
                self._log.info(f"Layer {layer} is not in {name} and starts from its fillers")
        self._given.update(weights)

    def load_own(self, names: Sequence[str]) -> None:
        """Load the weights files `names` into the test nets' own layers, which no snapshot has."""
        if any(net.own for net in self._tests):
            for name in names:
                self._load_own(read_weights(name), name)
            if not names:
                self._load_own({}, "a snapshot")

    def _load_own(self, weights: Mapping[str, Sequence[np.ndarray]], name: str) -> set[str]:
        """Load weights into the test nets' own layers, and log each. Returns the names of those that are loaded."""
        found: set[str] = set()
        for number, net in enumerate(self._tests):
            loaded = net.load_own(weights, name)
            found.update(loaded)
            for layer in net.own:
                if layer.name in self._given and layer.name not in loaded:
                    continue  # a file before this one has it
                where = (
                    f"starts from {name}" if layer.name in loaded else f"is not in {name} and starts from its fillers"
                )
                self._log.info(f"Layer {layer.name}, which only test net (#{number}) has, {where}")
        return found

    def write(self, iteration: int, current_step: int) -> tuple[Path, Path]:
        """Write weights and solver state of an iteration. Returns their paths."""
        weights, state = self._names(iteration)
        self._written.append(Path(state))
        if self._group.is_first:
            with self.guard:
                self._write(weights, state, iteration, current_step)
        return Path(weights), Path(state)

    def is_of(self, iteration: int, state: str | None) -> bool:
        """Whether `state` is the file that `write` would write, and the weights file that belongs to it is there."""
        weights, ours = self._names(iteration)
        return state is not None and Path(ours).resolve() == Path(state).resolve() and Path(weights).is_file()

    def _names(self, iteration: int, mark: str = "") -> tuple[str, str]:
        ending = ".h5" if self._hdf5 else ""
        stem = f"{self.prefix}_iter_{iteration}{mark}"
        return f"{stem}.caffemodel{ending}", f"{stem}.solverstate{ending}"

    def _write(self, weights: str, state: str, iteration: int, current_step: int) -> None:
        kind = "HDF5" if self._hdf5 else "binary proto"
        self._log.info(f"Snapshotting to {kind} file {weights}")
        arrays = self._net.arrays()
        if self._hdf5:
            # As in Caffe, a blob that another layer owns is left out.
            for name, index in self._net.shared:
                arrays[name][index] = np.empty(0, np.float32)
        write_over = weights if not Path(state).exists() else self._names(iteration, ".new")[0]
        write_weights(write_over, arrays, self._net.name, self._net.types())
        if write_over != weights:
            # At no time may an older state seem to belong to the new weights.
            try:
                remove_file(state)
                replace_file(write_over, weights)
            except OSError as error:
                raise CaffeSplitError(f"{state}: cannot replace this snapshot: {error.strerror}") from error
        self._log.info(f"Snapshotting solver state to {kind} file {state}")
        history = [array.cpu().numpy() for array in self._updater.history]
        write_solverstate(state, SolverState(iteration, weights, current_step, history))

    def restore(self, path: str) -> tuple[int, int]:
        """Load the solver state at `path` and the weights saved with it. Returns (iteration, current_step).

        Raises `CaffeSplitError` for files that do not fit this training.
        """
        self._log.info(f"Restoring previous solver status from {path}")
        state = read_solverstate(path)
        ours = self._updater.history
        if len(state.history) != len(ours):
            raise CaffeSplitError(
                f"{path}: {len(state.history)} blobs of history; this net under solver type {self._updater.kind} has "
                f"{len(ours)}. Was it saved by a training of this net?"
            )
        for place, (array, own) in enumerate(zip(state.history, ours)):
            if tuple(array.shape) != tuple(own.shape):
                raise CaffeSplitError(
                    f"{path}: history blob {place} has shape {tuple(array.shape)}; here {tuple(own.shape)}."
                )
        if state.learned_net:
            if not Path(state.learned_net).is_file():
                raise CaffeSplitError(
                    f"{path}: its weights are {state.learned_net}, which is not there seen from {Path.cwd()}."
                )
            self._load(read_weights(state.learned_net), state.learned_net)
        self._updater.restore([torch.from_numpy(np.array(array, np.float32)) for array in state.history])
        self._log.info("SGDSolver: restoring history")
        return state.iter, state.current_step

    def newest(self) -> str | None:
        """The newest whole solver state with this prefix, or None. Only the first process looks."""
        found = newest_pair(self.prefix, self._log.info) if self._group.is_first else None
        if found is None:
            self._log.info(f"No whole snapshot {self.prefix}_iter_*: starting from the beginning")
        return str(found) if found is not None else None

    def last_good(self) -> str:
        """Words for messages: which snapshot of this run is the last good one."""
        good = next((path for path in reversed(self._written) if is_whole(path)), None)
        return f"the last good snapshot is {good}" if good else "this run has written no good snapshot"
