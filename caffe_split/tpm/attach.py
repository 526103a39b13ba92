"""Watching a training with TPM layers: which convolutions, over which windows, and at what cost."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.upgrade import upgraded
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import convolutions, phase_layers, weight_owners
from caffe_split.net.training import Training
from caffe_split.split.recognise import helper_names
from caffe_split.tpm.layers import Windows, add_watchers


def check_windows(windows: Windows, max_iter: int | None = None) -> None:
    """Raises `CaffeSplitError` for windows that the layer would refuse, or that the training does not reach."""
    last_stop = 0
    for start, stop in windows.pairs:
        if stop - start < windows.interval:
            raise CaffeSplitError(
                f"the window {start}:{stop} does not hold two samples {windows.interval} iterations apart; "
                "choose a longer window or a shorter --interval."
            )
        if start < last_stop:
            raise CaffeSplitError(
                f"the window {start}:{stop} starts before the one before it stops ({last_stop}); give windows in "
                "order that do not overlap."
            )
        if max_iter is not None and stop > max_iter:
            raise CaffeSplitError(
                f"the window {start}:{stop} ends after the training, whose max_iter is {max_iter}; choose a window "
                "within it."
            )
        last_stop = stop


# How many values the solver keeps for each weight besides its gradient; the other types keep one.
_HISTORIES = {"AdaDelta": 2, "Adam": 2}


@dataclass(frozen=True)
class WatchCost:
    """What watching costs: the layers watched, their weights, and bytes more of memory, of a caffemodel, of a state.

    Two copies of each weight are kept, and for each of them what the solver keeps for any parameter: a gradient
    and its history. A caffemodel holds the shared weight once more (HDF5 does not), both copies, and the results.
    """

    layers: tuple[str, ...]
    weights: int
    memory_bytes: int
    snapshot_bytes: int
    state_bytes: int

    # Beyond this a series of snapshots is the cheaper way.
    LIMIT: ClassVar[int] = 256 * 2**20

    def __str__(self) -> str:
        text = (
            f"watched: {', '.join(self.layers)}; {self.weights:,} weights, "
            f"{self.memory_bytes / 2**20:.2f} MiB more memory, {self.snapshot_bytes / 2**20:.2f} MiB more a "
            f"caffemodel, {self.state_bytes / 2**20:.2f} MiB more a solverstate"
        )
        if self.snapshot_bytes + self.state_bytes > self.LIMIT:
            text += (
                "; that is much: a series of snapshots over the window and `caffe-split tpm --window` tell the same "
                "without TPM layers, or watch fewer layers (--layers)"
            )
        return text


def watch_cost(shapes: Mapping[str, Sequence[int]], windows: int, solver: str = "SGD", hdf5: bool = False) -> WatchCost:
    """The cost of watching weights of these shapes (layer -> shape) over so many windows, under a solver's type."""
    weights = sum(math.prod(shape) for shape in shapes.values())
    results = sum(windows * (shape[0] + 1) * 3 + (windows + 1) * 8 for shape in shapes.values())
    histories = _HISTORIES.get(solver, 1)
    return WatchCost(
        tuple(shapes),
        weights,
        4 * (2 + histories) * (2 * weights + results),
        4 * ((2 if hdf5 else 3) * weights + results),
        4 * histories * (2 * weights + results),
    )


def instrument_training(
    training: Training, pairs: Sequence[tuple[int, int]], interval: int, names: Sequence[str] | None
) -> WatchCost:
    """Add TPM layers to the training's net for the convolutions of `names` (all but helpers when None).

    Changes the document only. Raises `CaffeSplitError` for layers that are not convolutions of the net, or share
    an earlier one's weight, windows outside the training, and weights whose shape cannot be told.
    """
    layers = training.train_layers()
    possible = [layer.name for layer in weight_owners(layers)]
    for name in names or ():
        if name not in possible:
            sharing = any(layer.name == name for layer in convolutions(layers))
            why = f"no convolution '{name}'"
            if sharing:
                why = f"'{name}' shares the weight of an earlier layer: watch that"
            raise CaffeSplitError(f"{training.net_path}: {why}. Its convolutions: {', '.join(possible) or 'none'}.")
    if names is None:
        helpers = helper_names(layers)
        names = [name for name in possible if name not in helpers]
    if not names:
        raise CaffeSplitError(f"{training.net_path}: no convolution to watch in it.")
    solver = training.solver
    iter_size = int(solver.get("iter_size", 1)) if solver is not None else 1
    windows = Windows(tuple(pairs), interval, iter_size)
    check_windows(windows, solver.get("max_iter", None) if solver is not None else None)
    shapes = weight_shapes(training, names)
    add_watchers(training.net, shapes, windows)
    if solver is None:
        return watch_cost(shapes, len(pairs))
    hdf5 = str(solver.get("snapshot_format", "BINARYPROTO")) == "HDF5"
    return watch_cost(shapes, len(pairs), str(solver.get("type", "SGD")), hdf5)


def states_left_behind(training: Training) -> str | None:
    """A warning where there are solver states, which Caffe cannot resume a net from that got more parameters."""
    states = list(training.snapshots("solverstate"))
    if not states:
        return None
    return (
        f"note: the solver states at {training.prefix}_iter_* (the last of iteration {max(states)}) were made without "
        'these TPM layers, and Caffe will not resume from them ("Incorrect length of history blobs"): train from the '
        "start, or from a .caffemodel with --weights"
    )


def several_gpus(training: Training) -> str | None:
    """What the solver must say for a watched net on several GPUs; nothing where it says so, or trains on the CPU.

    A watched weight is a shared one, and Caffe ends in the first iteration where it averages gradients layer by layer.
    """
    solver = training.solver
    if solver is not None:
        on_cpu = str(solver.get("solver_mode", "GPU")) == "CPU"
        if on_cpu or not solver.get("layer_wise_reduce", True):
            return None
    return (
        "note: to train on several GPUs, write `layer_wise_reduce: false` into "
        f"{training.solver_path or 'the solver'}: a watched weight is a shared one, and Caffe stops in the first "
        "iteration otherwise"
    )


def weight_shapes(training: Training, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shape of each layer's weight: worked out from the data's shape, else read from the latest snapshot.

    Raises `CaffeSplitError` where neither is there.
    """
    net = upgraded(training.net)  # where `input` fields stand in the net as written, its shapes are known, too
    inferred = infer_shapes(phase_layers(net, "TRAIN", training.stages, training.level))
    lacking = [name for name in names if name not in inferred.params]
    snapshots = training.snapshots() if lacking else {}
    stored = caffemodel.read_weights(snapshots[max(snapshots)]) if snapshots else {}
    shapes = {}
    for name in names:
        if name in inferred.params:
            shapes[name] = tuple(inferred.params[name][0])
        elif stored.get(name):
            shapes[name] = tuple(stored[name][0].shape)
        else:
            first, reason = next(iter(inferred.unknown.items()), (name, "unknown"))
            raise CaffeSplitError(
                f"{training.net_path}: the shape of the weight of '{name}' cannot be told (layer '{first}': {reason}), "
                "and there is no snapshot to read it from. Make the data set, or start where its path is right."
            )
    return shapes
