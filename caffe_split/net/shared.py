"""Parameters that layers share by name: which values each of them has once weights are loaded."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffe_split.formats import prototxt
from caffe_split.net.layers import Layer, phase_layers
from caffe_split.net.state import PHASES, NetState

Blobs = dict[str, "list[np.ndarray]"]


def settle_shared(documents: Sequence[prototxt.Document], blobs: Blobs, state: NetState) -> None:
    """Give all layers that share a parameter, in either phase, the same values in `blobs`; see `settle_layers`."""
    for document in documents:
        for phase in PHASES:
            settle_layers(phase_layers(document, state.in_phase(phase)), blobs)


def settle_layers(layers: Sequence[Layer], blobs: Blobs) -> None:
    """Give those of a net's layers that share a parameter the same values in `blobs`, which is changed.

    As Caffe loads them: the layers' blobs are one array, into which the file's layers are copied in their order, so
    that the last one counts; `blobs` has the file's order. HDF5 files have the values once: the other layers' blobs are
    empty there, or missing.
    """
    owned = provided(layers, blobs)
    for layer in layers:
        own, names = list(blobs.get(layer.name, ())), layer.param_names()
        while layer.type != "TPM" and len(own) < len(names) and names[len(own)] in owned:
            own.append(np.empty(0, np.float32))
            blobs[layer.name] = own
    place = {name: number for number, name in enumerate(blobs)}
    users: dict[str, list[tuple[str, int]]] = {}
    for layer in layers:
        for index, name in enumerate(layer.param_names()):
            if name and index < len(blobs.get(layer.name, ())):
                users.setdefault(name, []).append((layer.name, index))
    for slots in users.values():
        given = [slot for slot in sorted(slots, key=lambda slot: place[slot[0]]) if blobs[slot[0]][slot[1]].size]
        if len(slots) > 1 and given:
            _copy(blobs, given[-1], slots)


def provided(layers: Sequence[Layer], blobs: Mapping[str, Sequence[np.ndarray]]) -> set[str]:
    """The names of parameters of which `blobs` has the values, in at least one of the net's layers."""
    return {
        name
        for layer in layers
        if any(layer.param_names())
        for name, blob in zip(layer.param_names(), blobs.get(layer.name, ()))
        if name and blob.size
    }


def _copy(blobs: Blobs, source: tuple[str, int], slots: Sequence[tuple[str, int]]) -> None:
    values = blobs[source[0]][source[1]]
    for name, index in slots:
        own = blobs[name][index]
        if own.size in (0, values.size):
            blobs[name][index] = values.reshape(own.shape) if own.size else values
