"""How far the added layers moved after a split: ||w(end) - w(start)|| / ||w(start)||."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_split.formats.weights.caffemodel import read_weights
from caffe_split.split.kinds import added_words
from caffe_split.split.naming import parts_among


def movements(start: Path, end: Path) -> dict[str, dict[str, float]]:
    """Layer split -> its part -> relative change of the weight from one caffemodel to the other.

    Weights files have no wiring, so the parts of a split are known by their names (see `naming.parts_among`).
    """
    before, after = read_weights(start), read_weights(end)
    parts = parts_among(set(before), added_words())
    found: dict[str, dict[str, float]] = {}
    for name in before:
        if name not in parts or name not in after or not len(before[name]):
            continue
        origin, place, word = parts[name]
        old, new = (np.asarray(blobs[name][0], np.float64) for blobs in (before, after))
        norm = float(np.linalg.norm(old))
        found.setdefault(origin, {})[word or place] = float(np.linalg.norm(new - old)) / norm if norm else float("nan")
    return found
