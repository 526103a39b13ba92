"""Mean and variance of channels over batches, one batch in memory at a time."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from caffe_split.split.branch_norm import ChannelStatistics


def measure(batches: Iterable[Mapping[str, np.ndarray]], blobs: Sequence[str]) -> dict[str, ChannelStatistics]:
    """Mean and biased variance of the channels (axis 1) of each of the blobs, over batches (blob -> values)."""
    sums: dict[str, np.ndarray] = {}
    counts = dict.fromkeys(blobs, 0)
    shifts: dict[str, np.ndarray] = {}
    for seen in batches:
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
        answer[name] = ChannelStatistics(mean + shifts[name], variance)
    return answer
