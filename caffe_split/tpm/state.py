"""The state that a TPM layer leaves in a snapshot: recognising it, measuring TPM from it, making a fresh one."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.net.tpm_state import (
    BLOBS,
    COUNTER,
    LAYOUT_VERSION,
    PREVIOUS,
    RESULT,
    START,
    WEIGHT,
    from_cells,
    state_shapes,
    to_cells,
)
from caffe_split.tpm.layers import Windows
from caffe_split.tpm.lengths import lengths
from caffe_split.tpm.scores import LayerScores

Blobs = Sequence[npt.NDArray[np.float32]]


def is_state(blobs: Blobs) -> bool:
    """Whether a layer's blobs have the shapes of a TPM layer's state.

    The shared weight, which an HDF5 snapshot leaves out, may have shape (0,).
    """
    if len(blobs) != len(BLOBS) or blobs[START].ndim < 1:
        return False
    found = [tuple(blob.shape) for blob in blobs]
    expected = state_shapes(found[START], found[RESULT][0] if found[RESULT] else 0)
    return found[WEIGHT] in (expected[WEIGHT], (0,)) and found[START:] == expected[START:]


def from_state(
    blobs: Blobs, layer: str, iteration: int | None = None, weight: npt.NDArray[np.float32] | None = None
) -> list[LayerScores]:
    """The windows that a TPM layer has sampled at least twice, oldest first, from its blobs in a snapshot.

    A snapshot of iteration t is written before the layer samples w(t). A sample that is due at t is therefore added
    here, from the snapshot's own weight: blob 0, or, where the snapshot (HDF5) leaves the shared blob out, `weight`,
    the watched layer's own. A window that has not ended is given up to its latest sample. The norms are known for
    the latest window only, and NaN for those before. `iteration`, when given, must be the iteration that the layer
    counted. Raises `CaffeSplitError` when the blobs are not such a state, when the layer has never run, and where
    the weights were not finite.
    """
    watcher = f"the TPM layer that watches '{layer}'"
    if not is_state(blobs):
        raise CaffeSplitError(f"the state of {watcher} has another form; which Caffe made it?")
    counter = np.asarray(blobs[COUNTER], dtype=np.float64)
    if counter[0, 0] == 0:
        raise CaffeSplitError(
            f"{watcher} has never run: the snapshot holds no sample. Train the net with it, and take a later snapshot."
        )
    if counter[0, 0] != LAYOUT_VERSION:
        raise CaffeSplitError(
            f"the state of {watcher} has layout {counter[0, 0]:g}, expected {LAYOUT_VERSION}: made by another "
            "version of the layer?"
        )
    now = from_cells(counter[0, 1:3])
    if iteration is not None and now != iteration:
        raise CaffeSplitError(
            f"{watcher} counted {now} iterations in the snapshot of iteration {iteration}: "
            "is its iter_size the solver's, and did training start from scratch?"
        )
    windows = [[from_cells(row[i : i + 2]) for i in range(0, 8, 2)] for row in counter[1:]]
    # The copies of the weight belong to the latest window that has a sample.
    latest = max((w for w, (samples, *_) in enumerate(windows) if samples), default=-1)
    found = []
    for w, (samples, start, _, interval) in enumerate(windows):
        result = np.asarray(blobs[RESULT][w], dtype=np.float64)
        displacement, path = result[:, 0], result[:, 1] + result[:, 2]
        norms = (math.nan, math.nan)
        if w == latest:
            last = blobs[PREVIOUS]
            if start + samples * interval == now <= windows[w][2]:
                last = blobs[WEIGHT] if blobs[WEIGHT].shape != (0,) or weight is None else weight
                if last.shape != blobs[START].shape:
                    raise CaffeSplitError(
                        f"{watcher} watched a weight of shape {blobs[START].shape}, but the snapshot's weight of "
                        f"'{layer}' has shape {last.shape}. Are they of one net?"
                    )
                path = path + lengths(last, blobs[PREVIOUS])
                displacement = lengths(last, blobs[START])
                samples += 1
            norms = (float(lengths(blobs[START])[-1]), float(lengths(last)[-1]))
        if samples > 1:
            scores = LayerScores(
                layer=layer,
                start=start,
                stop=start + (samples - 1) * interval,
                interval=interval,
                steps=samples - 1,
                shape=tuple(blobs[START].shape),
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


def fresh_state(weight: np.ndarray, windows: Windows, iteration: int) -> list[np.ndarray]:
    """The five blobs (float32) of a TPM layer that watches `weight` and has sampled nothing until `iteration`.

    Every window has to start at `iteration` or later: the state does not distinguish a sample that was missed from
    one that was taken.
    """
    assert all(start >= iteration for start, _ in windows.pairs)
    blobs = [np.zeros(shape, np.float32) for shape in state_shapes(weight.shape, len(windows.pairs))]
    blobs[WEIGHT] = np.asarray(weight, np.float32)
    counter = blobs[COUNTER]
    counter[0, :5] = (LAYOUT_VERSION, *to_cells(iteration), 0, windows.iter_size)
    for row, (start, stop) in zip(counter[1:], windows.pairs):
        row[:] = (*to_cells(0), *to_cells(start), *to_cells(stop), *to_cells(windows.interval))
    return blobs
