"""The parameters of a net's layers: which are shared, their multipliers, and copying weights into them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch

from caffe_split.engine.layers.base import Layer, Shape
from caffe_split.engine.layers.python import Python
from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.table import record_for
from caffe_split.net.options import Options


@dataclass(frozen=True)
class Param:
    """A parameter: the layer that owns it, its index among that layer's blobs, its values and multipliers."""

    layer: str
    index: int
    values: torch.Tensor
    lr_mult: float
    decay_mult: float


class Sharing:
    """Finds the parameters that layers share because they give them the same name.

    `shared` holds (name of the layer, index of the blob) of each blob that an earlier layer owns.
    """

    def __init__(self) -> None:
        self.shared: set[tuple[str, int]] = set()
        self._owners: dict[str, tuple[Layer, int]] = {}
        # Parameters that share the values of another shape: (layer, index) -> their own shape.
        self._shaped: dict[tuple[str, int], Shape] = {}

    def add(self, layer: Layer) -> None:
        """Give the next layer of the net the blobs that it shares. Raises `CaffeSplitError` if their shapes differ."""
        names = layer.text.param_names()
        if len(names) > len(layer.blobs):
            raise layer.error(f"{len(names)} param for {len(layer.blobs)} blobs; Caffe takes at most one each.")
        for index in range(len(layer.blobs)):
            if index < len(names) and names[index]:
                self._take(layer, index, names[index])

    def _take(self, layer: Layer, index: int, name: str) -> None:
        if name not in self._owners:
            self._owners[name] = (layer, index)
            return
        owner, place = self._owners[name]
        theirs, ours = owner.blobs[place], layer.blobs[index]
        if theirs.shape != ours.shape:
            permissive = layer.text.message.subs("param")[index].get("share_mode", "STRICT") == "PERMISSIVE"
            if not permissive or theirs.numel() != ours.numel():
                way = "Caffe shares as many values only" if permissive else "share_mode: PERMISSIVE shares its values"
                raise layer.error(
                    f"its param '{name}' has shape {tuple(ours.shape)}, that of layer '{owner.name}' "
                    f"{tuple(theirs.shape)}; {way}."
                )
            self._shaped[layer.name, index] = tuple(ours.shape)
        layer.blobs[index] = theirs
        self.shared.add((layer.name, index))

    def settle(self, layers: Sequence[Layer], device: torch.device, learns: bool) -> list[Param]:
        """Move all blobs and buffers to the device. Returns the parameters in Caffe's order.

        learns: whether parameters with an lr_mult get gradients.
        """
        params: list[Param] = []
        moved: dict[int, torch.Tensor] = {}
        for layer in layers:
            layer.buffers = [buffer.to(device) for buffer in layer.buffers]
            for index, blob in enumerate(layer.blobs):
                if id(blob) not in moved:
                    moved[id(blob)] = blob.to("cpu" if index in layer.on_host else device)
                    multipliers = _multipliers(layers, layer, index)
                    params.append(Param(layer.name, index, moved[id(blob)], *multipliers))
                    if learns and params[-1].lr_mult:
                        moved[id(blob)].requires_grad_(True)
                layer.blobs[index] = moved[id(blob)]
        for layer in layers:
            for index, blob in enumerate(layer.blobs):
                if (layer.name, index) in self._shaped:
                    layer.blobs[index] = blob.view(self._shaped[layer.name, index])
        return params


# The first blobs of a BatchNorm.
_STATISTICS = 3


def _multipliers(layers: Sequence[Layer], layer: Layer, index: int) -> tuple[float, float]:
    """(lr_mult, decay_mult) of a parameter: as its owner or, failing that, a layer that shares it gives them."""
    found: dict[str, float] = {}
    for other in layers:
        specs = other.text.message.subs("param")
        for place, blob in enumerate(other.blobs[: len(specs)]):
            if blob is not layer.blobs[index]:
                continue
            for name in ("lr_mult", "decay_mult"):
                value = specs[place].get(name, None)
                if value is not None and found.setdefault(name, float(value)) != float(value):
                    raise other.error(
                        f"its {name} of a shared param is {value}; that of layer '{layer.name}' is {found[name]}."
                    )
    if layer.text.type == "BN" and (index > 1 or Options.of(layer.text.message, "bn_param").get("frozen")):
        # Running means are kept, not learnt; `frozen` overrides what the rates say.
        return 0.0, 0.0
    if layer.text.type == "BatchNorm" and index < _STATISTICS:
        # Caffe sets both to 0 where there are three; fewer have to be written as 0, and those left out are.
        if len(layer.text.message.subs("param")) >= _STATISTICS:
            return 0.0, 0.0
        if len(layer.blobs) > _STATISTICS:
            return 0.0, 0.0  # The fork does it itself.
        written = index < len(layer.text.message.subs("param"))
        if found.get("lr_mult", 1.0 if written else 0.0) != 0:
            raise layer.error(f"blob {index} is state, which is not learnt: write lr_mult: 0, or leave its param out.")
        return 0.0, found.get("decay_mult", 1.0)
    if (layer.text.type == "TPM" and index) or (isinstance(layer, Python) and index in layer.states):
        if found.get("lr_mult", 0.0) != 0:
            raise layer.error(f"blob {index} is state, which is not learnt: write lr_mult: 0, or leave it out.")
        return 0.0, 0.0
    return found.get("lr_mult", 1.0), found.get("decay_mult", 1.0)


def copy_weights(
    layers: Sequence[Layer],
    shared: set[tuple[str, int]],
    weights: Mapping[str, Sequence[np.ndarray]],
    path: str,
    net: str,
) -> tuple[list[str], list[str]]:
    """Copy weights into the layers of the same names, as Caffe does; if any does not fit, copy none.

    Args:
        layers: the layers of the net.
        shared: see `Sharing`.
        weights: name of a layer -> its blobs.
        path: the file of the weights, for messages.
        net: the file of the net, for messages.

    Returns:
        (names in the file that the net does not have, layers of the net that stay as they were).

    Raises `CaffeSplitError` for another number of blobs, another shape, or weights of another net altogether.
    """
    todo = []
    # In the file's order, so that of the values of shared parameters the last ones count.
    place = {name: number for number, name in enumerate(weights)}
    for layer in sorted(layers, key=lambda layer: place.get(layer.name, -1)):
        arrays = list(weights.get(layer.name, []))
        if not arrays:
            continue
        while len(arrays) < len(layer.blobs) and (layer.name, len(arrays)) in shared:
            arrays.append(np.empty(0, np.float32))
        if len(arrays) != len(layer.blobs):
            raise layer.error(f"{path} has {len(arrays)} blobs of it; it has {len(layer.blobs)}.")
        for index, (array, blob) in enumerate(zip(arrays, layer.blobs)):
            if array.shape == (0,) and (layer.name, index) in shared:
                continue  # In HDF5 a blob that another layer owns is an empty array, or missing.
            alike = record_for(layer.text).ignores_ones and _without_ones(array.shape) == _without_ones(blob.shape)
            if not alike and not _same_shape(array.shape, tuple(blob.shape)):
                raise layer.error(f"blob {index} has shape {tuple(array.shape)} in {path}, {tuple(blob.shape)} here.")
            todo.append((blob, array))
    ours = {layer.name for layer in layers}
    if not todo and (any(layer.blobs for layer in layers) or not ours & set(weights)):
        names = [*list(weights)[:5], *(["..."] if len(weights) > 5 else [])]
        raise CaffeSplitError(
            f"{path}: none of its layers ({', '.join(names)}) is in the net that {net} has in this phase."
        )
    with torch.no_grad():
        for blob, array in todo:
            blob.copy_(torch.from_numpy(np.array(array, np.float32)).view(blob.shape))
    missing = [
        layer.name
        for layer in layers
        if not all((layer.name, index) in shared for index in range(len(layer.blobs)))
        and not len(weights.get(layer.name, []))
    ]
    return [name for name in weights if name not in ours and len(weights[name])], missing


def _without_ones(shape: Sequence[int]) -> list[int]:
    return [length for length in shape if length != 1]


def _same_shape(stored: Sequence[int], wanted: Shape) -> bool:
    """Whether the shapes are equal, or `stored` has four axes, as in 2013-14, of which the surplus first ones are 1."""
    if tuple(stored) == wanted:
        return True
    return len(stored) == 4 and tuple(stored) == (1,) * (4 - len(wanted)) + wanted
