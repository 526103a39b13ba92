"""TPM layers in a net: adding them, finding what they watch, taking them out again."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from caffe_split.errors import CaffeSplitError
from caffe_split.net import Layer, all_layers, convolutions, find_layer, phase_layers
from caffe_split.proto import caffemodel, prototxt
from caffe_split.proto.upgrade import upgraded
from caffe_split.shapes import infer_shapes
from caffe_split.split.parts import is_helper
from caffe_split.training import Training

# The TPM layer of convolution X is X_tpm; it shares X's weight under the name X_tpm_w where X has given it none.
SUFFIX = "_tpm"
SHARED_SUFFIX = "_tpm_w"
# In place of it where an empty `param` stood there, which --remove then leaves.
KEPT_SUFFIX = "_tpm_weight"


@dataclass(frozen=True)
class Windows:
    """When TPM layers look: pairs (start, stop) of iterations, ascending; a sample every `interval` iterations.

    `iter_size` is the solver's.
    """

    pairs: tuple[tuple[int, int], ...]
    interval: int = 1
    iter_size: int = 1


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


def add_watchers(document: prototxt.Document, shapes: Mapping[str, Sequence[int]], windows: Windows) -> list[str]:
    """Add a TPM layer for each layer of `shapes` (layer name -> shape of its weight), at the end of the net.

    Changes the document: the layer's first `param` gets a name if it has none. Returns the TPM layers' names.
    Raises `CaffeSplitError`, before anything is changed, for a layer that is not there, is written more than
    once, or is watched already.
    """
    layers = all_layers(document)
    watched = watchers(document)
    names = Counter(layer.name for layer in layers)
    by_name = {layer.name: layer for layer in reversed(layers)}
    for name in shapes:
        found = by_name.get(name) or find_layer(document, name)
        if names[name] > 1:
            raise CaffeSplitError(f"{found.where} is written {names[name]} times; a TPM layer needs one.")
        if name in watched:
            raise CaffeSplitError(
                f"{found.where} is watched already, by '{watched[name].name}'. Use --remove first to change its window."
            )
        if name + SUFFIX in names:
            raise CaffeSplitError(f"{document.filename}: the name '{name}{SUFFIX}' is taken; rename that layer.")
    last = layers[-1].field
    for name, shape in shapes.items():
        layer = by_name[name]
        field = _watcher(name, _shared_name(layer), _rules(layer), shape, windows)
        document.insert_after(last, field)
        last = field
    return [name + SUFFIX for name in shapes]


def _shared_name(layer: Layer) -> str:
    """The name of the layer's weight, given here if it has none."""
    specs = layer.message.subs("param")
    name = str(specs[0].get("name", "")) if specs else ""
    if name:
        return name
    name = layer.name + SHARED_SUFFIX
    if specs:
        if not specs[0].fields:
            name = layer.name + KEPT_SUFFIX
        specs[0].set("name", name)
    else:
        # Before any other setting of the layer's own, where one looks for it.
        tops = layer.message.all_fields("top")
        layer.message.add("param", [("name", name)], after=tops[-1])
    return name


Settings = list[tuple[str, object]]


def _rules(layer: Layer) -> Settings:
    """The include and exclude rules that have a TPM layer where the watched layer is, in the TRAIN phase."""
    phase = ("phase", prototxt.Enum("TRAIN"))
    rules: Settings = []
    for rule in layer.message.subs("include"):
        if rule.get("phase", "TRAIN") == "TRAIN":
            rules.append(("include", [phase, *_states(rule)]))
    for rule in layer.message.subs("exclude"):
        if rule.get("phase", "TRAIN") == "TRAIN":
            rules.append(("exclude", _states(rule)))
    if any(kind == "exclude" for kind, _ in rules):
        # Caffe takes rules of one kind in a layer.
        return [*rules, ("exclude", [("phase", prototxt.Enum("TEST"))])]
    return rules or [("include", [phase])]


def _states(rule: prototxt.Message) -> Settings:
    return [(key, value) for key in ("min_level", "max_level", "stage", "not_stage") for value in rule.get_all(key)]


def _watcher(
    name: str, shared: str, rules: Settings, shape: Sequence[int], windows: Windows
) -> prototxt.Field:
    pairs = [(key, value) for pair in windows.pairs for key, value in zip(("start_iter", "stop_iter"), pair)]
    settings: list[tuple[str, object]] = [*pairs, ("interval", windows.interval)]
    if windows.iter_size != 1:
        settings.append(("iter_size", windows.iter_size))
    settings.append(("shape", [("dim", int(size)) for size in shape]))
    return prototxt.field(
        "layer",
        [
            ("name", name + SUFFIX),
            ("type", "TPM"),
            ("top", name + SUFFIX),
            ("param", [("name", shared)]),
            *rules,
            ("tpm_param", settings),
        ],
    )


def watchers(document: prototxt.Document) -> dict[str, Layer]:
    """Name of the watched layer -> its TPM layer."""
    layers = all_layers(document)
    owners: dict[str, str] = {}
    for layer in layers:
        for name in layer.param_names()[:1]:
            if name and layer.type != "TPM":
                owners.setdefault(name, layer.name)
    found = {}
    for layer in layers:
        shared = layer.param_names()
        if layer.type == "TPM" and shared and shared[0] in owners:
            found[owners[shared[0]]] = layer
    return found


def windows_of(watcher: Layer) -> Windows:
    """The windows of a TPM layer."""
    param = watcher.message.sub("tpm_param")
    if param is None:
        raise CaffeSplitError(f"{watcher.where} is a TPM layer without tpm_param.")
    pairs = zip(param.get_all("start_iter"), param.get_all("stop_iter"))
    return Windows(
        tuple((int(start), int(stop)) for start, stop in pairs),
        int(param.get("interval", 1)),
        int(param.get("iter_size", 1)),
    )


def remove_watchers(document: prototxt.Document, names: Sequence[str] | None = None) -> list[str]:
    """Take out the TPM layers of `names` (all when None), and the weight names that were given for them.

    Gives back the text that `add_watchers` found. Returns the names of the layers no longer watched.
    """
    wanted = None if names is None else set(names)
    removed = {name: each for name, each in watchers(document).items() if wanted is None or name in wanted}
    for watcher in removed.values():
        document.remove(watcher.field, keep_blank=False)
    for layer in all_layers(document) if removed else []:
        if layer.name in removed:
            _forget_name(layer)
    return list(removed)


def _forget_name(layer: Layer) -> None:
    for field in layer.message.all_fields("param"):
        spec = field.message
        if spec is None:
            continue
        name = spec.get("name", "")
        if name == layer.name + KEPT_SUFFIX:
            spec.remove("name")
        elif name == layer.name + SHARED_SUFFIX:
            spec.remove("name")
            if not spec.fields:
                layer.message.remove(field)


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


def weight_owners(layers: Sequence[Layer]) -> list[Layer]:
    """The convolutions, in order, without those that share an earlier one's weight: a weight is watched once."""
    owners: dict[str, str] = {}
    found = []
    for layer in convolutions(layers):
        shared = next(iter(layer.param_names()), "")
        if not shared or owners.setdefault(shared, layer.name) == layer.name:
            found.append(layer)
    return found


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
        names = [name for name in possible if not is_helper(name)]
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
        "these TPM layers, and Caffe will not resume from them (\"Incorrect length of history blobs\"): train from the "
        "start, or from a .caffemodel with --weights"
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
