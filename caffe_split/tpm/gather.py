"""Scores of a training's layers, from wherever they can be had."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.instrument import watchers, windows_of
from caffe_split.net import all_layers, convolutions
from caffe_split.proto import caffemodel
from caffe_split.split.parts import is_helper
from caffe_split.tpm.measure import from_snapshots, from_state
from caffe_split.tpm.scores import LayerScores
from caffe_split.training import Training

Window = tuple[int, int]


def momentum_of(training: Training) -> float:
    """The solver's momentum, which the null model needs; 0 without a solver."""
    return float(training.solver.get("momentum", 0.0)) if training.solver is not None else 0.0


def gather(
    training: Training,
    iteration: int,
    windows: Sequence[Window] = (),
    layers: Sequence[str] | None = None,
    progress: Callable[[int, int], None] | None = None,
) -> list[LayerScores]:
    """Scores at `iteration`, grouped by window, layers in the net's order.

    Without `windows`: those that the net's TPM layers have sampled by then, as the snapshot of that iteration
    holds them. With `windows`: from the TPM layers where they sampled just that window, else from the series of
    snapshots over it. `layers` limits them to some layers. Raises `CaffeSplitError` where there is neither, and
    says how to get either.
    """
    watched = watchers(training.net)
    names = [
        layer.name
        for layer in convolutions(all_layers(training.net))
        if (layer.name in layers if layers is not None else not is_helper(layer.name))
    ]
    seen = _from_layers(training, iteration, [name for name in names if name in watched])
    if not windows:
        found = [score for score in seen]
        if not found:
            raise CaffeSplitError(_how_to_get_tpm(training, iteration))
        return sorted(found, key=lambda score: (score.stop, score.start, names.index(score.layer)))
    found = []
    for start, stop in windows:
        if stop <= start:
            raise CaffeSplitError(f"the window {start}:{stop} is empty; give START:STOP with START < STOP.")
        inside = [score for score in seen if (score.start, score.stop) == (start, stop)]
        if not inside:
            snapshots = training.snapshots()
            inside = from_snapshots(snapshots, caffemodel.read_weights, names, start, stop, progress)
        found += sorted(inside, key=lambda score: names.index(score.layer))
    return found


def latest_window(scores: Sequence[LayerScores]) -> list[LayerScores]:
    """The scores of the window that ends last (of several, the longest)."""
    last = max(((score.stop, -score.start) for score in scores), default=None)
    return [score for score in scores if (score.stop, -score.start) == last]


def _from_layers(training: Training, iteration: int, names: Sequence[str]) -> list[LayerScores]:
    if not names:
        return []
    watched = watchers(training.net)
    path = training.snapshot(iteration)
    weights = caffemodel.read_weights(path)
    scores: list[LayerScores] = []
    for name in names:
        state = weights.get(watched[name].name)
        if state:
            scores += from_state(state, name, iteration)
    return scores


def _how_to_get_tpm(training: Training, iteration: int) -> str:
    path: Path = training.snapshot(iteration)
    watched = watchers(training.net)
    if watched:
        pairs = windows_of(next(iter(watched.values()))).pairs
        begun = f"its TPM layers look from {' and '.join(f'{a} to {b}' for a, b in pairs)}"
        return f"{path}: no TPM in this snapshot: {begun}. Choose an --iter after two samples of a window."
    known = ", ".join(map(str, training.snapshots()))
    return (
        f"{path}: no TPM in this snapshot: the net has no TPM layers. Either add them and train: `caffe-split "
        f"instrument {training.net_path} --window START:STOP --interval N`; or measure a series of snapshots with "
        f"--window START:STOP (there are snapshots of iterations {known})."
    )
