"""TPM layers in a net: adding them, finding what they watch, taking them out again."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from caffe_split.errors import CaffeSplitError
from caffe_split.net import Layer, all_layers, convolutions, find_layer, phase_layers
from caffe_split.proto import caffemodel, prototxt
from caffe_split.shapes import infer_shapes
from caffe_split.split.parts import is_helper
from caffe_split.training import Training

# The TPM layer of convolution X is X_tpm; it shares X's weight under the name X_tpm_w where X has given it none.
SUFFIX = "_tpm"
SHARED_SUFFIX = "_tpm_w"


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
            raise CaffeSplitError(f"the window {start}:{stop} starts before the one before it stops ({last_stop}).")
        if max_iter is not None and stop > max_iter:
            raise CaffeSplitError(f"the window {start}:{stop} ends after the training, whose max_iter is {max_iter}.")
        last_stop = stop


def add_watchers(document: prototxt.Document, shapes: Mapping[str, Sequence[int]], windows: Windows) -> list[str]:
    """Add a TPM layer for each layer of `shapes` (layer name -> shape of its weight), at the end of the net.

    Changes the document: the layer's first `param` gets a name if it has none. Returns the TPM layers' names.
    Raises `CaffeSplitError`, before anything is changed, for a layer that is not there, is written more than
    once, or is watched already.
    """
    layers = all_layers(document)
    watched = watchers(document)
    names = [layer.name for layer in layers]
    for name in shapes:
        found = find_layer(document, name)
        if names.count(name) > 1:
            raise CaffeSplitError(f"{found.where} is written {names.count(name)} times; a TPM layer needs one.")
        if name in watched:
            raise CaffeSplitError(
                f"{found.where} is watched already, by '{watched[name].name}'. Use --remove first to change its window."
            )
        if name + SUFFIX in names:
            raise CaffeSplitError(f"{document.filename}: the name '{name}{SUFFIX}' is taken; rename that layer.")
    last = layers[-1].field
    for name, shape in shapes.items():
        layer = find_layer(document, name)
        field = _watcher(name, _shared_name(layer), shape, windows)
        document.insert_after(last, field)
        last = document.all_fields("layer")[-1]
    return [name + SUFFIX for name in shapes]


def _shared_name(layer: Layer) -> str:
    """The name of the layer's weight, given here if it has none."""
    specs = layer.message.subs("param")
    name = str(specs[0].get("name", "")) if specs else ""
    if name:
        return name
    name = layer.name + SHARED_SUFFIX
    if specs:
        specs[0].set("name", name)
    else:
        # Before any other setting of the layer's own, where one looks for it.
        tops = layer.message.all_fields("top")
        layer.message.add("param", [("name", name)], after=tops[-1])
    return name


def _watcher(name: str, shared: str, shape: Sequence[int], windows: Windows) -> prototxt.Field:
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
            ("include", [("phase", prototxt.Enum("TRAIN"))]),
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
    removed = []
    for name, watcher in watchers(document).items():
        if names is not None and name not in names:
            continue
        document.remove(watcher.field)
        for layer in all_layers(document):
            if layer.name == name:
                _forget_name(layer)
        removed.append(name)
    return removed


def _forget_name(layer: Layer) -> None:
    for field in layer.message.all_fields("param"):
        spec = field.message
        if spec is not None and spec.get("name", "") == layer.name + SHARED_SUFFIX:
            spec.remove("name")
            if not spec.fields:
                layer.message.remove(field)


@dataclass(frozen=True)
class WatchCost:
    """What watching costs: the layers watched, their weights, and the bytes that a snapshot grows by.

    A snapshot holds the shared weight once more, two copies of it, and the results.
    """

    layers: tuple[str, ...]
    weights: int
    snapshot_bytes: int

    # Beyond this a series of snapshots is the cheaper way.
    LIMIT: ClassVar[int] = 256 * 2**20

    def __str__(self) -> str:
        text = (
            f"watched: {', '.join(self.layers)}; {self.weights:,} weights, "
            f"{8 * self.weights / 2**20:.2f} MiB more memory, {self.snapshot_bytes / 2**20:.2f} MiB more a snapshot"
        )
        if self.snapshot_bytes > self.LIMIT:
            text += "; that is much: a series of snapshots and `caffe-split tpm --window` need no TPM layers"
        return text


def instrument_training(
    training: Training, pairs: Sequence[tuple[int, int]], interval: int, names: Sequence[str] | None
) -> WatchCost:
    """Add TPM layers to the training's net for the convolutions of `names` (all but helpers when None).

    Changes the document only. Raises `CaffeSplitError` for layers that are not convolutions of the net, windows
    outside the training, and weights whose shape cannot be told.
    """
    layers = list(convolutions(all_layers(training.net)))
    known = {layer.name for layer in layers}
    for name in names or ():
        if name not in known:
            raise CaffeSplitError(
                f"{training.net_path}: no convolution '{name}'. Its convolutions: {', '.join(sorted(known))}."
            )
    if names is None:
        names = [layer.name for layer in layers if not is_helper(layer.name)]
    iter_size = int(training.solver.get("iter_size", 1)) if training.solver is not None else 1
    max_iter = training.solver.get("max_iter", None) if training.solver is not None else None
    windows = Windows(tuple(pairs), interval, iter_size)
    check_windows(windows, max_iter)
    shapes = weight_shapes(training, names)
    add_watchers(training.net, shapes, windows)
    weights = sum(math.prod(shape) for shape in shapes.values())
    rows = sum(shape[0] + 1 for shape in shapes.values())
    cells = 3 * weights + len(pairs) * 3 * rows + 8 * (len(pairs) + 1) * len(shapes)
    return WatchCost(tuple(shapes), weights, 4 * cells)


def weight_shapes(training: Training, names: Sequence[str]) -> dict[str, tuple[int, ...]]:
    """Shape of each layer's weight: worked out from the data's shape, else read from the latest snapshot.

    Raises `CaffeSplitError` where neither is there.
    """
    inferred = infer_shapes(phase_layers(training.net, "TRAIN"))
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
