"""The state of a TPM layer that has counted iterations and sampled nothing yet."""

from __future__ import annotations

import numpy as np

from caffe_split.tpm.layers import Windows

LAYOUT_VERSION = 1


def fresh_state(weight: np.ndarray, windows: Windows, iteration: int) -> list[np.ndarray]:
    """The five blobs (float32) of a TPM layer watching `weight`, as a snapshot of `iteration` has them.

    Their layout is that of docs/caffe.md. Every window has to start at `iteration` or later: a sample that was
    missed could not be told from one that was taken.
    """
    assert all(start >= iteration for start, _ in windows.pairs)
    counters = np.zeros((len(windows.pairs) + 1, 8), np.float32)
    counters[0, :5] = (LAYOUT_VERSION, *_pair(iteration), 0, windows.iter_size)
    for row, (start, stop) in zip(counters[1:], windows.pairs):
        row[:] = (*_pair(0), *_pair(start), *_pair(stop), *_pair(windows.interval))
    copy = np.zeros(weight.shape, np.float32)
    lengths = np.zeros((len(windows.pairs), len(weight) + 1, 3), np.float32)
    return [np.asarray(weight, np.float32), copy, copy.copy(), lengths, counters]


def _pair(value: int) -> tuple[int, int]:
    """A whole number in two cells, as a float counts exactly to 2^24 only."""
    return value % 2**24, value // 2**24
