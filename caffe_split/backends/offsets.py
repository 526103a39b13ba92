"""Constants that one net's blob has and the other's lacks, because the BatchNorm after it takes them off.

Folding can leave a convolution without the bias that its layers made together: the mean of the BatchNorm after it
then lacks the same numbers, and everything from there on is as before. The blob between the two is not.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from caffe_split.formats import prototxt
from caffe_split.net.graph import Graph
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import NetState

Blobs = Mapping[str, Sequence[np.ndarray]]


class Offset(NamedTuple):
    """What the first net's blob has more than the second's, float64 [channels], and the BatchNorm that takes it off."""

    norm: str
    values: np.ndarray


def offsets(first: tuple[prototxt.Document, Blobs], second: tuple[prototxt.Document, Blobs], state: NetState) -> dict:
    """Blob -> `Offset`, for blobs that one BatchNorm alone reads in both nets (each a document and its weights)."""
    ours, theirs = _means(*first, state), _means(*second, state)
    found = {}
    for blob, (norm, mean) in ours.items():
        other = theirs.get(blob)
        if other is not None and other[0] == norm and other[1].shape == mean.shape and (mean != other[1]).any():
            found[blob] = Offset(norm, mean - other[1])
    return found


def _means(document: prototxt.Document, weights: Blobs, state: NetState) -> dict[str, tuple[str, np.ndarray]]:
    """Blob -> the BatchNorm that alone reads it, not in place, and the mean that this layer takes off."""
    graph = Graph(phase_layers(document, state))
    found = {}
    for index, layer in enumerate(graph.layers):
        reader = graph.sole_reader(index)
        if reader is None or len(graph.writers(layer.tops[0])) != 1:
            continue
        norm = graph.layers[reader]
        blobs = weights.get(norm.name, ())
        if norm.type != "BatchNorm" or len(blobs) != 3 or blobs[2].size != 1 or not blobs[2].any():
            continue
        mean = np.asarray(blobs[0], np.float64).reshape(-1) / float(blobs[2].reshape(-1)[0])
        found[layer.tops[0]] = (norm.name, mean)
    return found
