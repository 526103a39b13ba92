"""How far the added layers moved after a split: ||w(end) - w(start)|| / ||w(start)||."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_split.formats.weights.caffemodel import read_weights

# The ends of the names of the layers that a split puts in the place of X.
PARTS = ("split1", "split2", "residual_pre", "residual_post", "skip", "extension", "reorder")


def movements(start: Path, end: Path) -> dict[str, dict[str, float]]:
    """Layer split -> its part -> relative change of the weight from one caffemodel to the other."""
    before, after = read_weights(start), read_weights(end)
    found: dict[str, dict[str, float]] = {}
    for name in before:
        base, part = _part(name)
        if not part or name not in after or not len(before[name]):
            continue
        old, new = (np.asarray(blobs[name][0], np.float64) for blobs in (before, after))
        norm = float(np.linalg.norm(old))
        found.setdefault(base, {})[part] = float(np.linalg.norm(new - old)) / norm if norm else float("nan")
    return found


def _part(name: str) -> tuple[str, str]:
    for part in PARTS:
        for middle in ("_split2_", "_"):
            if name.endswith(middle + part):
                return name[: -len(middle + part)], part
    return name, ""
