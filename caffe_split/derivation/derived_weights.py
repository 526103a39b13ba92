"""The blobs of a derived net."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from caffe_split.backends.check_weights import Blobs
from caffe_split.formats import prototxt
from caffe_split.split.parts import Blob, Part
from caffe_split.tpm.layers import watchers, windows_of
from caffe_split.tpm.state import fresh_state, is_state


class DerivedWeights(Mapping[str, "list[np.ndarray[Any, Any]]"]):
    """Layer -> float32 arrays, in the net's order. Square weights of splits are made each time they are asked for."""

    def __init__(self, blobs: Mapping[str, Sequence[Blob]]) -> None:
        self._blobs = dict(blobs)

    def __getitem__(self, name: str) -> list[np.ndarray[Any, Any]]:
        return [np.ascontiguousarray(np.asarray(blob, np.float32)) for blob in self._blobs[name]]

    def __iter__(self) -> Iterator[str]:
        return iter(self._blobs)

    def __len__(self) -> int:
        return len(self._blobs)

    def put(self, name: str, blobs: Sequence[Blob]) -> None:
        """Enter a layer, or replace it."""
        self._blobs[name] = blobs


def complete_states(blobs: DerivedWeights, derived: prototxt.Document, iteration: int) -> None:
    """State for the TPM layers of new layers, which must know at which iteration they start to count.

    Kept state out of an HDF5 snapshot gets the shared weight that Caffe leaves out there.
    """
    for name, watcher in watchers(derived).items():
        if watcher.name not in blobs:
            state = fresh_state(blobs[name][0], windows_of(watcher), iteration)
        else:
            state = blobs[watcher.name]
        blobs.put(watcher.name, [blobs[name][0], *state[1:]])


def derived_weights(
    weights: Blobs, splits: Mapping[str, Sequence[Part]], kept_states: Collection[str] = ()
) -> DerivedWeights:
    """The blobs of the derived net, in the net's order.

    The state of TPM layers is left out, except that of `kept_states`: the derived net counts its iterations from 0.
    """
    blobs: dict[str, Sequence[Blob]] = {}
    for name in weights:
        if name in splits:
            for part in splits[name]:
                if part.blobs:
                    blobs[part.name] = part.blobs
        elif len(weights[name]) and (name in kept_states or not is_state(weights[name])):
            blobs[name] = list(weights[name])
    return DerivedWeights(blobs)
