"""Run two nets on the same input in the built Caffe and compare them, blob by blob.

Run as a program it is the child of `compare_nets`; see `child.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from caffe_split.caffe.child import run_job


@dataclass(frozen=True)
class BlobDifference:
    """How far a blob that both nets have differs over all batches.

    `largest` is the largest absolute difference, `scale` the largest absolute value in the first net.
    """

    blob: str
    is_output: bool
    largest: float
    scale: float

    @property
    def relative(self) -> float:
        """The largest difference against the blob's largest value; infinite where it is not a number."""
        if not np.isfinite(self.largest):
            return float("inf")
        return self.largest / self.scale if self.scale else self.largest


def compare_nets(
    first: tuple[Path, Path], second: tuple[Path, Path], batches: int = 1, phase: str = "TEST", seed: int = 0
) -> list[BlobDifference]:
    """Forward two (net, weights) pairs on the same input and compare all blobs that both have.

    Data layers read their own data set from its start, so both see the same batches; Input layers get the same
    Gaussian noise. Blobs come in the first net's order. Raises `CaffeSplitError` with Caffe's own last words.
    """
    job = {
        "nets": [[str(path) for path in first], [str(path) for path in second]],
        "batches": batches,
        "phase": phase,
        "seed": seed,
    }
    return [BlobDifference(**row) for row in run_job("caffe_split.caffe.forward", job)]


def _forward(
    net_and_weights: Sequence[str], batches: int, phase: str, seed: int
) -> tuple[list[str], list[dict[str, np.ndarray]]]:
    import caffe

    net = caffe.Net(str(net_and_weights[0]), getattr(caffe, phase), weights=str(net_and_weights[1]))
    rng = np.random.default_rng(seed)
    runs = []
    # What a TPM layer says of the past is no part of the function; Split layers are Caffe's own copies.
    ignored = {
        top
        for name, layer in zip(net._layer_names, net.layers)
        if layer.type in ("TPM", "Split")
        for top in net.top_names[name]
    }
    for _ in range(batches):
        for name in net.inputs:
            net.blobs[name].data[...] = rng.standard_normal(net.blobs[name].data.shape)
        net.forward()
        runs.append({name: blob.data.copy() for name, blob in net.blobs.items() if name not in ignored})
    return [name for name in net.outputs if name not in ignored], runs


def main() -> None:
    """The child: a job as JSON in the first argument, rows as JSON on the last line of standard output."""
    job = json.loads(sys.argv[1])
    (outputs, ours), (_, theirs) = (_forward(net, job["batches"], job["phase"], job["seed"]) for net in job["nets"])
    rows = []
    for name in ours[0]:
        if name not in theirs[0]:
            continue
        pairs = [(a[name].astype(np.float64), b[name].astype(np.float64)) for a, b in zip(ours, theirs)]
        if any(a.shape != b.shape for a, b in pairs):
            largest = float("inf")
        else:
            largest = max(float(np.abs(a - b).max(initial=0)) for a, b in pairs)
        scale = max(float(np.abs(a).max(initial=0)) for a, _ in pairs)
        rows.append(asdict(BlobDifference(name, name in outputs, largest, scale)))
    print(json.dumps(rows))


if __name__ == "__main__":
    main()
