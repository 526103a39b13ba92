"""Adding TPM layers to a training: which convolutions they watch, over which windows, and what that costs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_split.errors import CaffeSplitError, expect
from caffe_split.files import PathLike, check_file
from caffe_split.formats import prototxt
from caffe_split.formats.kinds import kind_of
from caffe_split.formats.prototxt.upgrade import upgraded
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import convolutions, phase_layers, weight_owners
from caffe_split.net.options import Options, shape_of
from caffe_split.net.snapshots import find_snapshots, snapshot_prefix
from caffe_split.net.training import Training
from caffe_split.net.which_net import Solver
from caffe_split.net.which_solver import agreed
from caffe_split.split.recognise import helper_names
from caffe_split.tpm.cost import WatchCost, watch_cost
from caffe_split.tpm.layers import Windows, add_watchers, expect_pairs, remove_watchers, watchers
from caffe_split.tpm.trust import short_windows

_LAST = 2**31 - 1


def check_windows(windows: Windows, max_iter: int | None = None) -> None:
    """Raises `CaffeSplitError` for windows that the layer would refuse, or that the training does not reach."""
    last_stop = 0
    for start, stop in windows.pairs:
        if stop - start < windows.interval:
            raise CaffeSplitError(
                f"the window {start}:{stop} does not hold two samples {windows.interval} iterations apart; "
                "choose a longer window or a smaller interval."
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
        if stop > _LAST:
            raise CaffeSplitError(
                f"the window {start}:{stop} ends after iteration {_LAST}, the last that Caffe can count; choose a "
                "window before."
            )
        last_stop = stop


@dataclass(frozen=True)
class InstrumentPlan:
    """A net that got TPM layers or lost them, not yet written; `print(plan)` says what was done.

    `training` has the changed net; `layers` are those that are watched, or no longer watched; `cost` is None where TPM
    layers were taken out. `notes` are warnings for the training.
    """

    training: Training
    layers: tuple[str, ...]
    cost: WatchCost | None = None
    notes: tuple[str, ...] = ()

    def __str__(self) -> str:
        return str(self.cost) if self.cost is not None else f"no longer watched: {', '.join(self.layers) or 'none was'}"

    def write(self, path: PathLike | None = None, force: bool = False) -> None:
        """Write the net into a new file, or, without a path, in place of the file that it was read from.

        Raises `CaffeSplitError` where a file of that name exists, unless `force` and it is a net, and where nothing can
        be written.
        """
        target = self.training.net_path if path is None else Path(path)
        if path is not None:
            check_file(target, force)
            there = kind_of(target)
            if there is not None and there.kind != "net":
                raise CaffeSplitError(f"{target}: {there.sentence}; only a net is replaced. Choose another name.")
        prototxt.write(self.training.net, target, force or path is None)


def instrument(
    training: Training,
    windows: Sequence[tuple[int, int]],
    *,
    interval: int = 1,
    layers: Sequence[str] | None = None,
) -> InstrumentPlan:
    """Add TPM layers to a training's net: they measure how the kernels of its convolutions move while it trains.

    Args:
        training: The net and its solver, as `open_training` gives them; it stays as it is.
        windows: Pairs (start, stop) of iterations in which the layers sample, in order and not overlapping.
        interval: Iterations between two samples.
        layers: Names of the convolutions to watch; None: all except helpers of splits.

    Returns the plan, whose `write()` writes the net. Comments and all other text stay. Raises `CaffeSplitError` for
    layers that are no convolutions of the net or share an earlier one's weight, for windows outside the training,
    for a net in the old form, and for weights whose shape is not known.

    >>> import os, tempfile
    >>> import caffe_split as cs
    >>> net = os.path.join(tempfile.mkdtemp(), "net.prototxt")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 4 kernel_size: 3 } }''')
    >>> plan = cs.instrument(cs.open_training(net), [(0, 1000)], interval=10)
    >>> plan.layers, plan.cost.weights
    (('conv',), 108)
    >>> plan.write()
    >>> [layer.get("type") for layer in cs.read_net(net).subs("layer")]
    ['Input', 'Convolution', 'TPM']
    """
    expect(training, Training, "a Training: open it by caffe_split.open_training(...)")
    expect_pairs(windows)
    training = _changeable(training)
    training.need_bottoms()
    cost = instrument_training(training, windows, interval, layers)
    notes = [states_left_behind(training), several_gpus(training), _left_out(training, cost, layers)]
    # Where several solvers name the net, the one whose momentum asks for the longest window.
    momentum = max((float(solver.get("momentum", 0.0)) for _, solver in _solvers(training)), default=0.0)
    watched = [Options.of(watcher.message, "tpm_param") for watcher in watchers(training.net).values()]
    shapes = [shape_of(options.sub("shape")) for options in watched]
    for window in windows:
        if (last := Windows((), interval).last_sample(window)) != window[1]:
            notes.append(
                f"note: {interval} does not divide the window {window[0]}:{window[1]}; its last sample is at {last}"
            )
    notes += (f"warning: {line}" for line in short_windows(windows, interval, momentum, shapes))
    return InstrumentPlan(training, cost.layers, cost, tuple(note for note in notes if note is not None))


def uninstrument(training: Training, layers: Sequence[str] | None = None) -> InstrumentPlan:
    """Take the TPM layers that watch `layers` (None: all) out of a training's net; its text becomes what it was.

    Raises `CaffeSplitError` for a layer that is not watched.

    >>> import os, tempfile
    >>> import caffe_split as cs
    >>> net = os.path.join(tempfile.mkdtemp(), "net.prototxt")
    >>> text = '''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 4 kernel_size: 3 } }'''
    >>> with open(net, "w") as stream:
    ...     _ = stream.write(text)
    >>> cs.instrument(cs.open_training(net), [(0, 1000)]).write()
    >>> plan = cs.uninstrument(cs.open_training(net))
    >>> print(plan)
    no longer watched: conv
    >>> plan.write()
    >>> open(net).read() == text
    True
    """
    expect(training, Training, "a Training: open it by caffe_split.open_training(...)")
    training = _changeable(training)
    watched = watchers(training.net)
    unwatched = sorted(set(layers or ()) - set(watched))
    if unwatched:
        raise CaffeSplitError(
            f"{training.net_path}: no TPM layer watches {', '.join(unwatched)}. Watched: "
            f"{', '.join(watched) or 'none'}."
        )
    return InstrumentPlan(training, tuple(remove_watchers(training.net, layers)))


def _changeable(training: Training) -> Training:
    """The training with a copy of its net. Raises `CaffeSplitError` for a net that cannot hold TPM layers."""
    if training.is_inline:
        raise CaffeSplitError(
            f"{training.solver_path}: the net stands in the solver itself; write it as a file that the solver names "
            "with `net`, and add TPM layers to that."
        )
    if training.net.has("layers"):
        raise CaffeSplitError(
            f"{training.net_path}: the net is in the old form (`layers`), and TPM layers are of the new one (`layer`); "
            "Caffe reads no net with both. Add --upgrade to write it in the new form; comments stay."
        )
    training.need_known_types()
    return replace(training, net=training.net.copy())


def instrument_training(
    training: Training, pairs: Sequence[tuple[int, int]], interval: int, names: Sequence[str] | None
) -> WatchCost:
    """Add TPM layers to the training's own net for the convolutions of `names` (None: all except helpers of splits).

    Raises `CaffeSplitError` as `instrument` does.
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
    chosen = names is None
    if names is None:
        helpers = helper_names(layers)
        names = [name for name in possible if name not in helpers]
    if not names:
        raise CaffeSplitError(f"{training.net_path}: no convolution to watch in it.")
    if not agreed(training.solvers, "iter_size"):
        training.need_one_solver()
    solvers = [solver for _, solver in _solvers(training)]
    iter_size = int(solvers[0].get("iter_size", 1)) if solvers else 1
    windows = Windows(tuple(pairs), interval, iter_size)
    check_windows(windows, max((int(solver.get("max_iter", 0)) for solver in solvers), default=0) or None)
    shapes = weight_shapes(training, names, some=chosen)
    add_watchers(training.net, shapes, windows)
    costs = [
        watch_cost(
            shapes,
            len(pairs),
            str(solver.get("type", "SGD")),
            str(solver.get("snapshot_format", "BINARYPROTO")) == "HDF5",
        )
        for solver in solvers
    ]
    return max(costs, key=lambda cost: cost.memory_bytes) if costs else watch_cost(shapes, len(pairs))


def _solvers(training: Training) -> tuple[Solver, ...]:
    """The solver of the training, or all that may be it."""
    if training.solver is None or training.solver_path is None:
        return training.solvers
    return ((training.solver_path, training.solver),)


def _left_out(training: Training, cost: WatchCost, names: Sequence[str] | None) -> str | None:
    """A note on convolutions that nobody named and that are not watched: the shape of their weight is not known."""
    helpers = helper_names(training.train_layers())
    every = [layer.name for layer in weight_owners(training.train_layers()) if layer.name not in helpers]
    left = [name for name in every if name not in cost.layers]
    if names is not None or not left:
        return None
    return f"note: not watched, since the shape of their weight is not known: {', '.join(left)}"


def states_left_behind(training: Training) -> str | None:
    """A warning where there are solver states: Caffe cannot resume from them, since the net has more parameters now."""
    written = ((path, solver.get("snapshot_prefix", "")) for path, solver in _solvers(training))
    prefixes = dict.fromkeys(snapshot_prefix(*each) for each in written)
    states = {prefix: max(found) for prefix in prefixes if (found := find_snapshots(prefix, "solverstate"))}
    if not states:
        return None
    where = " and ".join(f"{prefix}_iter_* (the last of iteration {last})" for prefix, last in states.items())
    return (
        f"note: the solver states at {where} were made without "
        'these TPM layers, and Caffe will not resume from them ("Incorrect length of history blobs"): train from the '
        "start, or from a .caffemodel by `caffe-split train --weights`"
    )


def several_gpus(training: Training) -> str | None:
    """What the solver must say for a watched net on several GPUs; None where it says so, or trains on the CPU.

    A watched weight is a shared one, and a Caffe that averages gradients layer by layer stops in the first iteration.
    """
    fit = [
        str(solver.get("solver_mode", "GPU")) == "CPU" or not solver.get("layer_wise_reduce", True)
        for _, solver in _solvers(training)
    ]
    if fit and all(fit):
        return None
    return (
        "note: to train on several GPUs, write `layer_wise_reduce: false` into "
        f"{training.solver_path or 'the solver'}: a watched weight is a shared one, and Caffe stops in the first "
        "iteration otherwise"
    )


def weight_shapes(training: Training, names: Sequence[str], some: bool = False) -> dict[str, tuple[int, ...]]:
    """Shape of each layer's weight: inferred from the data's shape, else read from the latest snapshot.

    Raises `CaffeSplitError` where neither is there; with `some` only where that is so of all layers, and layers without
    a known shape are left out.
    """
    net = upgraded(training.net)  # where `input` fields stand in the net as written, its shapes are known, too
    inferred = infer_shapes(phase_layers(net, training.state))
    lacking = [name for name in names if name not in inferred.params]
    snapshots = training.snapshots() if lacking else {}
    stored = caffemodel.read_weights(snapshots[max(snapshots)]) if snapshots else {}
    shapes = {}
    for name in names:
        if name in inferred.params:
            shapes[name] = tuple(inferred.params[name][0])
        elif stored.get(name):
            shapes[name] = tuple(stored[name][0].shape)
        elif not some or (name == names[-1] and not shapes):
            first, reason = next(iter(inferred.unknown.items()), (name, "unknown"))
            raise CaffeSplitError(
                f"{training.net_path}: the shape of the weight of '{name}' is not known (layer '{first}': {reason}), "
                "and there is no snapshot to read it from. Make the data set, or start where its path is right."
            )
    return shapes
