"""How far two nets' blobs lie apart, whatever ran them."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_split.backends.protocol import Backend, Forwarded, Forwarding, NetFiles
from caffe_split.errors import CaffeSplitError


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


def compare_nets(backend: Backend, first: NetFiles, second: NetFiles, how: Forwarding) -> list[BlobDifference]:
    """Forward both nets on the same input and compare all blobs that both have; see `compare_blobs`.

    Raises `CaffeSplitError` for an input file that holds no numbers, and for what the back end cannot run.
    """
    if how.input_file is not None:
        load_input(how.input_file)
    one, other = backend.forward([first, second], how)
    return compare_blobs(one, other)


def compare_blobs(first: Forwarded, second: Forwarded) -> list[BlobDifference]:
    """The difference at each blob that both nets have, in the first net's order.

    An output of one net alone is there, too, with an infinite difference; so is a blob whose shapes differ.
    """
    ours, theirs = first.batches, second.batches
    rows = []
    for name in ours[0]:
        if name not in theirs[0]:
            if name in first.outputs:
                rows.append(BlobDifference(name, True, float("inf"), 0.0))
            continue
        largest = scale = 0.0
        for mine, other in zip(ours, theirs):
            a, b = mine[name].astype(np.float64), other[name].astype(np.float64)
            distance = float(np.abs(a - b).max(initial=0)) if a.shape == b.shape else float("inf")
            largest, scale = _larger(largest, distance), _larger(scale, float(np.abs(a).max(initial=0)))
        rows.append(BlobDifference(name, name in first.outputs, largest, scale))
    lacking = [name for name in second.outputs if name not in ours[0]]
    return rows + [BlobDifference(name, True, float("inf"), 0.0) for name in lacking]


def _larger(one: float, other: float) -> float:
    """The larger of the two; NaN where one of them is NaN, which `max` may lose."""
    return float(np.maximum(one, other))


def load_input(path: Path) -> np.ndarray:
    """An .npy file's array as float32. Raises `CaffeSplitError` for what is not one of numbers."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{path}: not an array that numpy.save wrote: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or values.ndim == 0 or not values.size:
        raise CaffeSplitError(f"{path}: it holds no array of numbers; expected one of shape (N, C, H, W).")
    return np.asarray(values, np.float32)
