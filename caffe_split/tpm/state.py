"""TPM out of the state that a TPM layer leaves in a snapshot."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.tpm.lengths import lengths
from caffe_split.tpm.scores import LayerScores

Blobs = Sequence[npt.NDArray[np.float32]]

# The layout of a TPM layer's state, as layers/tpm_layer.hpp describes it.
_WEIGHT, _START, _PREVIOUS, _RESULT, _COUNTER, _NUM_BLOBS = range(6)
_PAIR_BASE = 2**24
_LAYOUT_VERSION = 1


def is_state(blobs: Blobs) -> bool:
    """Whether a layer's blobs have the shapes of a TPM layer's state.

    An HDF5 snapshot leaves the shared weight out: then it has shape (0,).
    """
    if len(blobs) != _NUM_BLOBS or blobs[_START].ndim < 1:
        return False
    shapes = [tuple(blob.shape) for blob in blobs]
    windows = shapes[_RESULT][0] if shapes[_RESULT] else 0
    return (
        shapes[_START] == shapes[_PREVIOUS]
        and shapes[_WEIGHT] in (shapes[_START], (0,))
        and shapes[_RESULT] == (windows, shapes[_START][0] + 1, 3)
        and shapes[_COUNTER] == (windows + 1, 8)
    )


def from_state(
    blobs: Blobs, layer: str, iteration: int | None = None, weight: npt.NDArray[np.float32] | None = None
) -> list[LayerScores]:
    """The windows that a TPM layer has sampled at least twice, oldest first, from its blobs in a snapshot.

    A snapshot of iteration t is written before the layer samples w(t), so that where a sample is due at t it is
    added here, from the snapshot's own weight: blob 0, or `weight`, the watched layer's own, where the snapshot
    (HDF5) leaves the shared blob out. A window under way is given as far as it has come. The norms are
    known for the latest window only, NaN for the ones before. `iteration`, when given, must be the iteration
    that the layer counted. Raises `CaffeSplitError` when the blobs are not such a state, when the layer has
    never run, and where what it saw was not finite.
    """
    watcher = f"the TPM layer that watches '{layer}'"
    if not is_state(blobs):
        raise CaffeSplitError(f"the state of {watcher} has another form; which Caffe made it?")
    counter = np.asarray(blobs[_COUNTER], dtype=np.float64)
    if counter[0, 0] == 0:
        raise CaffeSplitError(
            f"{watcher} has never run: the snapshot holds no sample. Train the net with it, and take a later snapshot."
        )
    if counter[0, 0] != _LAYOUT_VERSION:
        raise CaffeSplitError(
            f"the state of {watcher} has layout {counter[0, 0]:g}, expected {_LAYOUT_VERSION}: made by another "
            "version of the layer?"
        )
    now = _pair(counter[0, 1:3])
    if iteration is not None and now != iteration:
        raise CaffeSplitError(
            f"{watcher} counted {now} iterations in the snapshot of iteration {iteration}: "
            "is its iter_size the solver's, and did training start from scratch?"
        )
    windows = [[_pair(row[i : i + 2]) for i in range(0, 8, 2)] for row in counter[1:]]
    # The copies of the weight belong to the latest window that has a sample.
    latest = max((w for w, (samples, *_) in enumerate(windows) if samples), default=-1)
    found = []
    for w, (samples, start, _, interval) in enumerate(windows):
        result = np.asarray(blobs[_RESULT][w], dtype=np.float64)
        displacement, path = result[:, 0], result[:, 1] + result[:, 2]
        norms = (math.nan, math.nan)
        if w == latest:
            last = blobs[_PREVIOUS]
            if start + samples * interval == now <= windows[w][2]:
                last = blobs[_WEIGHT] if blobs[_WEIGHT].shape != (0,) or weight is None else weight
                if last.shape != blobs[_START].shape:
                    raise CaffeSplitError(
                        f"{watcher} watched a weight of shape {blobs[_START].shape}, but the snapshot's weight of "
                        f"'{layer}' has shape {last.shape}. Are they of one net?"
                    )
                path = path + lengths(last, blobs[_PREVIOUS])
                displacement = lengths(last, blobs[_START])
                samples += 1
            norms = (float(lengths(blobs[_START])[-1]), float(lengths(last)[-1]))
        if samples > 1:
            scores = LayerScores(
                layer=layer,
                start=start,
                stop=start + (samples - 1) * interval,
                interval=interval,
                steps=samples - 1,
                shape=tuple(blobs[_START].shape),
                displacement=displacement[:-1],
                path=path[:-1],
                layer_displacement=float(displacement[-1]),
                layer_path=float(path[-1]),
                norm_start=norms[0],
                norm_stop=norms[1],
            )
            check_finite(scores)
            found.append(scores)
    return found


def check_finite(scores: LayerScores) -> None:
    """Raises `CaffeSplitError` where the weights became NaN or infinite: there is nothing to measure then."""
    if not (math.isfinite(scores.layer_path) and math.isfinite(scores.layer_displacement)):
        raise CaffeSplitError(
            f"the weights of '{scores.layer}' were not finite somewhere in the window {scores.start}:{scores.stop}: "
            "the training diverged there. Choose a window that ends before."
        )


def _pair(cells: npt.NDArray[np.float64]) -> int:
    """A whole number kept in two cells, since a float is exact to 2^24 only."""
    return int(cells[0]) + _PAIR_BASE * int(cells[1])
