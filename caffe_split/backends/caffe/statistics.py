"""Mean and variance of channels over a net's own training data, measured in the built Caffe.

Run as a program it is the child of `channel_statistics`; see `child.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np

from caffe_split.backends.caffe.child import open_net, run_job
from caffe_split.net.state import TRAIN, NetState
from caffe_split.split.branch_norm import ChannelStatistics


def channel_statistics(
    net: Path, weights: Path, blobs: Sequence[str], batches: int, state: NetState = TRAIN
) -> dict[str, ChannelStatistics]:
    """Forward `batches` batches of the TRAIN net's own data; statistics of each blob's channels (axis 1).

    Raises `CaffeSplitError` with Caffe's own last words.
    """
    job = {
        "net": str(net),
        "weights": str(weights),
        "blobs": list(blobs),
        "batches": batches,
        "state": asdict(state),
    }
    answer = run_job("caffe_split.backends.caffe.statistics", job)
    return {name: ChannelStatistics(np.array(mean), np.array(var)) for name, (mean, var) in answer.items()}


def measure(
    forward: Callable[[], Mapping[str, np.ndarray]], blobs: Sequence[str], batches: int
) -> dict[str, tuple[list[float], list[float]]]:
    """(means, biased variances) of the channels of blobs, over the batches that `forward` gives one after the other."""
    sums: dict[str, np.ndarray] = {}
    counts = dict.fromkeys(blobs, 0)
    shifts: dict[str, np.ndarray] = {}
    for _ in range(batches):
        seen = forward()
        for name in blobs:
            values = np.moveaxis(seen[name], 1, 0).reshape(seen[name].shape[1], -1).astype(np.float64)
            # Sums of squares about the first batch's mean, so that a large mean does not drown a small variance.
            values -= shifts.setdefault(name, values.mean(axis=1))[:, None]
            sums[name] = sums.get(name, 0.0) + np.array([values.sum(axis=1), np.square(values).sum(axis=1)])
            counts[name] += values.shape[1]
    answer = {}
    for name, (first, second) in sums.items():
        mean = first / counts[name]
        variance = np.maximum(second / counts[name] - np.square(mean), 0)
        answer[name] = ((mean + shifts[name]).tolist(), variance.tolist())
    return answer


def main() -> None:
    job = json.loads(sys.argv[1])
    net = open_net(job["net"], job["weights"], job["state"])

    def forward() -> dict[str, np.ndarray]:
        net.forward()
        return {name: net.blobs[name].data for name in job["blobs"]}

    print(json.dumps(measure(forward, job["blobs"], job["batches"])))


if __name__ == "__main__":
    main()
