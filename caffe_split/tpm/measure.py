"""TPM out of what a training leaves behind: the TPM layers' state in one snapshot, or a series of snapshots."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.tpm.scores import LayerScores

Blobs = Sequence[npt.NDArray[np.float32]]
Weights = Mapping[str, Blobs]

# The layout of a TPM layer's state, as layers/tpm_layer.hpp describes it.
_WEIGHT, _START, _PREVIOUS, _RESULT, _COUNTER, _NUM_BLOBS = range(6)
_PAIR_BASE = 2**24
_LAYOUT_VERSION = 1


class _Track:
    """One weight's way: its displacement and path so far, for every kernel and, last, for the whole tensor."""

    def __init__(self, start: npt.ArrayLike) -> None:
        self.shape = np.shape(start)
        self.start = self.flat(start)
        self.previous = self.start
        self.displacement = np.zeros(self.shape[0] + 1)
        self.path = np.zeros(self.shape[0] + 1)

    def add(self, weight: npt.ArrayLike) -> None:
        """The next sample."""
        now = self.flat(weight)
        self.displacement = _lengths(now - self.start)
        self.path = self.path + _lengths(now - self.previous)
        self.previous = now

    def flat(self, weight: npt.ArrayLike) -> npt.NDArray[np.float64]:
        return np.asarray(weight, dtype=np.float64).reshape(self.shape[0], -1)

    def scores(self, layer: str, start: int, stop: int, interval: int, steps: int) -> LayerScores:
        return LayerScores(
            layer=layer,
            start=start,
            stop=stop,
            interval=interval,
            steps=steps,
            shape=tuple(self.shape),
            displacement=self.displacement[:-1],
            path=self.path[:-1],
            layer_displacement=float(self.displacement[-1]),
            layer_path=float(self.path[-1]),
            norm_start=float(np.linalg.norm(self.start)),
            norm_stop=float(np.linalg.norm(self.previous)),
        )


def _lengths(difference: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """L2 norm of every row, and of the whole as one more."""
    squares = np.einsum("ij,ij->i", difference, difference)
    return np.sqrt(np.append(squares, squares.sum()))


def is_state(blobs: Blobs) -> bool:
    """Whether a layer's blobs have the shapes of a TPM layer's state."""
    if len(blobs) != _NUM_BLOBS or blobs[_WEIGHT].ndim < 1:
        return False
    shapes = [tuple(blob.shape) for blob in blobs]
    windows = shapes[_RESULT][0] if shapes[_RESULT] else 0
    return (
        shapes[_WEIGHT] == shapes[_START] == shapes[_PREVIOUS]
        and shapes[_RESULT] == (windows, shapes[_WEIGHT][0] + 1, 3)
        and shapes[_COUNTER] == (windows + 1, 8)
    )


def from_state(blobs: Blobs, layer: str, iteration: int | None = None) -> list[LayerScores]:
    """The windows that a TPM layer has sampled at least twice, oldest first, from its blobs in a snapshot.

    A snapshot of iteration t is written before the layer samples w(t), so that where a sample is due at t it is
    added here, from the snapshot's own weight. A window under way is given as far as it has come. The norms are
    known for the latest window only, NaN for the ones before. `iteration`, when given, must be the iteration
    that the layer counted. Raises `CaffeSplitError` when the blobs are not such a state.
    """
    if not is_state(blobs):
        raise CaffeSplitError(
            f"the state of the TPM layer that watches '{layer}' has another form; which Caffe made it?"
        )
    counter = np.asarray(blobs[_COUNTER], dtype=np.float64)
    if counter[0, 0] == 0:
        raise CaffeSplitError(f"the TPM layer that watches '{layer}' has never run: the snapshot holds no sample.")
    if counter[0, 0] != _LAYOUT_VERSION:
        raise CaffeSplitError(
            f"the state of the TPM layer that watches '{layer}' has layout {counter[0, 0]:g}, "
            f"expected {_LAYOUT_VERSION}."
        )
    now = _pair(counter[0, 1:3])
    if iteration is not None and now != iteration:
        raise CaffeSplitError(
            f"the TPM layer that watches '{layer}' counted {now} iterations in the snapshot of iteration {iteration}: "
            "is its iter_size the solver's, and did training start from scratch?"
        )
    windows = [[_pair(row[i : i + 2]) for i in range(0, 8, 2)] for row in counter[1:]]
    # The copies of the weight belong to the latest window that has a sample.
    latest = max((w for w, (samples, *_) in enumerate(windows) if samples), default=-1)
    found = []
    for w, (samples, start, stop, interval) in enumerate(windows):
        track = _Track(blobs[_START])
        result = np.asarray(blobs[_RESULT][w], dtype=np.float64)
        track.displacement, track.path = result[:, 0], result[:, 1] + result[:, 2]
        if w == latest:
            track.previous = track.flat(blobs[_PREVIOUS])
            if start + samples * interval == now <= stop:
                track.add(blobs[_WEIGHT])
                samples += 1
        else:
            track.start = track.previous = np.full((1, 1), math.nan)
        if samples > 1:
            found.append(track.scores(layer, start, start + (samples - 1) * interval, interval, samples - 1))
    return found


def _pair(cells: npt.NDArray[np.float64]) -> int:
    """A whole number kept in two cells, since a float is exact to 2^24 only."""
    return int(cells[0]) + _PAIR_BASE * int(cells[1])


def from_snapshots(
    snapshots: Mapping[int, Path],
    read: Callable[[Path], Weights],
    layers: Sequence[str],
    start: int,
    stop: int,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerScores]:
    """TPM of `layers` over [start, stop] from the snapshots (iteration -> file) that lie in it.

    The snapshots must be equally far apart and reach from start to stop; two of them are in memory at a time.
    `progress(done, total)` is called after each. Raises `CaffeSplitError` for a gap or another net's snapshot.
    """
    inside = sorted(iteration for iteration in snapshots if start <= iteration <= stop)
    if len(inside) < 2 or inside[0] != start or inside[-1] != stop:
        raise CaffeSplitError(
            f"no snapshot series over [{start}, {stop}]: it needs snapshots at {start}, at {stop} and between; "
            f"there are {_listing(sorted(snapshots))}."
        )
    interval = inside[1] - inside[0]
    missing = sorted(set(range(start, stop + 1, interval)) ^ set(inside))
    if missing:
        raise CaffeSplitError(
            f"the snapshots over [{start}, {stop}] are not equally far apart: {interval} iterations at first, "
            f"then a snapshot is missing or extra at {_listing(missing)}."
        )
    tracks: dict[str, _Track] = {}
    for done, iteration in enumerate(inside):
        weights = read(snapshots[iteration])
        for layer in layers:
            if layer not in weights or not weights[layer]:
                raise CaffeSplitError(f"{snapshots[iteration]}: no weights of layer '{layer}' in it.")
            weight = weights[layer][0]
            if layer not in tracks:
                tracks[layer] = _Track(weight)
            elif np.shape(weight) == tracks[layer].shape:
                tracks[layer].add(weight)
            else:
                raise CaffeSplitError(
                    f"{snapshots[iteration]}: layer '{layer}' has shape {np.shape(weight)}, but "
                    f"{tracks[layer].shape} in {snapshots[inside[0]]}. Are these snapshots of one net?"
                )
        if progress is not None:
            progress(done + 1, len(inside))
    return [tracks[layer].scores(layer, start, stop, interval, len(inside) - 1) for layer in layers]


def _listing(iterations: Sequence[int], most: int = 12) -> str:
    shown = ", ".join(map(str, iterations[:most])) or "none"
    return shown + (f", ... ({len(iterations)} in all)" if len(iterations) > most else "")
