"""Parameters that layers share by name: which values each of them has once weights are loaded."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_split.formats import prototxt
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import PHASES, NetState

Blobs = dict[str, "list[np.ndarray]"]


def settle_shared(documents: Sequence[prototxt.Document], blobs: Blobs, state: NetState) -> None:
    """Give all layers that share a parameter the same values in `blobs`, which is changed.

    As Caffe loads them: the layers' blobs are one array, into which the file's layers are copied in their order, so
    that the last one counts. HDF5 files have the values once and leave the other layers' blobs empty.
    """
    place = {name: number for number, name in enumerate(blobs)}
    for document in documents:
        for phase in PHASES:
            users: dict[str, list[tuple[str, int]]] = {}
            for layer in phase_layers(document, state.in_phase(phase)):
                for index, name in enumerate(layer.param_names()):
                    if name and index < len(blobs.get(layer.name, ())):
                        users.setdefault(name, []).append((layer.name, index))
            for slots in users.values():
                given = [
                    slot for slot in sorted(slots, key=lambda slot: place[slot[0]]) if blobs[slot[0]][slot[1]].size
                ]
                if len(slots) > 1 and given:
                    _copy(blobs, given[-1], slots)


def _copy(blobs: Blobs, source: tuple[str, int], slots: Sequence[tuple[str, int]]) -> None:
    values = blobs[source[0]][source[1]]
    for name, index in slots:
        own = blobs[name][index]
        if own.size in (0, values.size):
            blobs[name][index] = values.reshape(own.shape) if own.size else values
