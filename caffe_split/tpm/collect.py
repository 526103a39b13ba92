"""TPM of a training's layers, from its TPM layers or from its snapshots."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from caffe_split.errors import CaffeSplitError, WrongUseError, expect
from caffe_split.formats.weights import caffemodel
from caffe_split.net.layers import all_layers, convolutions, weight_owners
from caffe_split.net.training import Training
from caffe_split.split import naming
from caffe_split.split.kinds import added_words, helper_words
from caffe_split.split.recognise import helper_names
from caffe_split.tpm.from_snapshots import from_snapshots, listing, norms_at
from caffe_split.tpm.layers import SUFFIX, expect_pairs, watchers, windows_of
from caffe_split.tpm.scores import LayerScores
from caffe_split.tpm.state import from_state, is_state

Window = tuple[int, int]
Progress = Callable[[int, int], None]


def momentum_of(training: Training) -> float | None:
    """The solver's momentum, which the null model needs; None without a solver."""
    return float(training.solver.get("momentum", 0.0)) if training.solver is not None else None


def measure_tpm(
    training: Training,
    iteration: int | None = None,
    *,
    windows: Sequence[Window] = (),
    layers: Sequence[str] | None = None,
    interval: int | None = None,
    progress: Progress | None = None,
) -> list[LayerScores]:
    """TPM (displacement / path) of a training's kernels: one `LayerScores` per window and layer, in the net's order.

    Args:
        training: The net and its solver, as `open_training` gives them.
        iteration: The snapshot whose TPM layers are read; None: the first after the last of `windows`, which their
            state still has, or the last snapshot.
        windows: Pairs (start, stop) of iterations. Each is taken from the TPM layers where they sampled just that
            window, else from the series of snapshots over it. Empty: the windows that the TPM layers have sampled.
        layers: Names of the layers to measure; None: all convolutions except helpers of splits.
        interval: Of a series of snapshots over one of `windows`, use those that are this many iterations apart.
        progress: Called as `progress(done, total)` while a series of snapshots is read.

    Raises `CaffeSplitError` where there are neither TPM layers nor the snapshots, and says how to get either.

    >>> import numpy as np, os, tempfile
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, solver = os.path.join(folder, "net.prototxt"), os.path.join(folder, "solver.prototxt")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 8 dim: 8 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 2 kernel_size: 1 } }''')
    >>> with open(solver, "w") as stream:
    ...     _ = stream.write(f'net: "{net}" max_iter: 20 momentum: 0.9 snapshot_prefix: "{folder}/net"')
    >>> for iteration, second in ((0, 0.0), (10, 1.0), (20, 0.0)):  # one kernel moves on, one moves and comes back
    ...     weight = np.array([iteration / 10, second]).reshape(2, 1, 1, 1)
    ...     cs.write_weights(f"{folder}/net_iter_{iteration}.caffemodel", {"conv": [weight, np.zeros(2)]})
    >>> (scores,) = cs.measure_tpm(cs.open_training(solver), windows=[(0, 20)])
    >>> scores.layer, scores.steps, scores.tpm.tolist()
    ('conv', 2, [1.0, 0.0])
    """
    expect(training, Training, "a Training: open it by caffe_split.open_training(...)")
    expect(iteration, (int, type(None)), "a whole number as iteration")
    training.need_one_solver()
    if isinstance(layers, str):
        raise CaffeSplitError(f"layers are a list of names, found {layers!r}; write [{layers!r}].")
    expect_pairs(windows)
    if interval is not None and not windows:
        raise WrongUseError(
            "an interval belongs to a window: TPM layers sampled at one of their own. Give a window, too."
        )
    if iteration is None:
        iteration = snapshot_after(training, windows)
    watched = watchers(training.net)
    names = layers_to_measure(training, layers)
    seen: list[LayerScores] = []
    if watched and (not windows or iteration in training.snapshots()):
        seen = _from_layers(training, iteration, [name for name in names if name in watched])
    if not windows:
        if not seen:
            raise CaffeSplitError(_how_to_get_tpm(training, iteration))
        return _with_norms(training, sorted(seen, key=lambda s: (s.stop, s.start, names.index(s.layer))))
    found: list[LayerScores] = []
    for start, stop in windows:
        ends = {name: stop for name in names}
        for name, watcher in watched.items():
            sampled = windows_of(watcher)
            if (start, stop) in sampled.pairs:
                ends[name] = sampled.last_sample((start, stop))
        inside = [
            score
            for score in seen
            if (score.start, score.stop) == (start, ends[score.layer]) and interval in (None, score.interval)
        ]
        covered = {score.layer for score in inside}
        if not covered or (layers is not None and not covered.issuperset(names)):
            _check_within(training, start, stop)
            inside = from_snapshots(training.snapshots(), names, (start, stop), interval=interval, progress=progress)
        found += sorted(inside, key=lambda score: names.index(score.layer))
    return _with_norms(training, found)


def measure_snapshots(
    snapshots: Mapping[int, Path],
    *,
    windows: Sequence[Window] = (),
    layers: Sequence[str] | None = None,
    interval: int | None = None,
    progress: Progress | None = None,
) -> list[LayerScores]:
    """TPM from snapshots alone (iteration -> file, ascending), without a net: of all layers that have kernels.

    Those are the layers whose weight has four axes and belongs neither to a TPM layer nor to a helper of a split.
    Without a net helpers are known by their names only (see `naming.parts_among`). Without `windows`: over the whole
    series. A single snapshot gives what its TPM layers sampled. The other arguments are those of `measure_tpm`.
    """
    # Another snapshot, such as the one that a full disk left cut off, is not read.
    measured = [at for at in snapshots if any(start <= at <= stop for start, stop in windows)] or snapshots
    last = snapshots[max(measured)]
    weights = caffemodel.read_weights(last)
    names = list(layers) if layers is not None else _names_with_kernels(weights)
    if not names:
        raise CaffeSplitError(f"{last}: no convolution in it. Name the layers with --layers.")
    if len(snapshots) == 1 and not windows:
        if interval is not None:
            raise WrongUseError("an interval chooses among several snapshots, and one is given.")
        found = []
        for name in names:
            state = weights.get(name + SUFFIX, [])
            if is_state(state):
                found += from_state(state, name, max(snapshots), weights[name][0])
        if not found:
            raise CaffeSplitError(
                f"{last}: one snapshot, without TPM layers that have two samples. Give a series of snapshots, "
                "or take a later one."
            )
        return sorted(found, key=lambda score: (score.stop, score.start, names.index(score.layer)))
    found = []
    for start, stop in windows or [(min(snapshots), max(snapshots))]:
        found += from_snapshots(snapshots, names, (start, stop), interval=interval, progress=progress)
    return found


def snapshot_after(training: Training, windows: Sequence[Window]) -> int:
    """The iteration of the first snapshot that has seen all of the windows; without windows of the last snapshot.

    Where there is no such snapshot, the stop of the last window.
    """
    if not windows:
        return _last_snapshot(training)
    stop = max(stop for _, stop in windows)
    return min((at for at in training.snapshots() if at >= stop), default=stop)


def _last_snapshot(training: Training) -> int:
    known = training.snapshots()
    if known:
        return max(known)
    if training.prefix:
        raise CaffeSplitError(
            f"{training.solver_path}: no snapshots at {training.prefix}_iter_*.caffemodel. Train it first."
        )
    raise CaffeSplitError(
        f"{training.net_path}: no solver beside it names this net, so the place of its snapshots is unknown. "
        "Give the solver, or the snapshots themselves."
    )


def layers_to_measure(training: Training, layers: Sequence[str] | None) -> list[str]:
    """The convolutions of these names, or all except helpers of splits, in the net's order.

    Raises `CaffeSplitError` for a name that is none.
    """
    # Where it is known in which state the net is built, layers of other states have no weights.
    known = training.solver is not None or training.asked is not None
    every = training.train_layers() if known else all_layers(training.net)
    if layers is None:
        helpers = helper_names(every)
        return [layer.name for layer in weight_owners(every) if layer.name not in helpers]
    names = [layer.name for layer in convolutions(every)]
    watched = watchers(training.net)
    for name in layers:
        if name not in names and name not in watched:
            raise CaffeSplitError(
                f"{training.net_path}: no convolution '{name}'. Its convolutions: {', '.join(names) or 'none'}."
            )
    return [name for name in [*names, *(name for name in watched if name not in names)] if name in layers]


def _names_with_kernels(weights: caffemodel.Weights) -> list[str]:
    parts = naming.parts_among(set(weights), added_words())
    helpers = {name for name, part in parts.items() if part.place == "reorder" or part.word in helper_words()}
    return [name for name in weights if name not in helpers and _has_kernels(weights, name)]


def _has_kernels(weights: caffemodel.Weights, name: str) -> bool:
    # Inner products of 2014 have four axes, too, the first two of size 1.
    if weights.types[name] == "InnerProduct":
        return False
    blobs = weights[name]
    return len(blobs) in (1, 2) and blobs[0].ndim == 4 and blobs[0].size > 0


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
            own = weights.get(name)
            scores += from_state(state, name, iteration, own[0] if own else None)
    return scores


def _with_norms(training: Training, scores: Sequence[LayerScores]) -> list[LayerScores]:
    """The norms that a state does not keep, from the snapshots of those iterations where there are any."""
    snapshots = training.snapshots() if any(math.isnan(score.norm_start) for score in scores) else {}
    filled = []
    for score in scores:
        if math.isnan(score.norm_start):
            start, stop = (norms_at(snapshots.get(at), score.layer) for at in (score.start, score.stop))
            score = dataclasses.replace(score, norm_start=start, norm_stop=stop)
        filled.append(score)
    return filled


def _check_within(training: Training, start: int, stop: int) -> None:
    last = training.solver.get("max_iter", None) if training.solver is not None else None
    if last is not None and stop > last:
        raise CaffeSplitError(
            f"the window {start}:{stop} ends after the training, whose max_iter is {last} ({training.solver_path}). "
            "Choose a window within it."
        )


def _how_to_get_tpm(training: Training, iteration: int) -> str:
    path: Path = training.snapshot(iteration)
    watched = watchers(training.net)
    if watched:
        pairs = windows_of(next(iter(watched.values()))).pairs
        begun = f"its TPM layers look from {' and '.join(f'{a} to {b}' for a, b in pairs)}"
        return f"{path}: no TPM in this snapshot: {begun}. Choose an --iter after two samples of a window."
    known = listing(list(training.snapshots()))
    return (
        f"{path}: no TPM in this snapshot: the net has no TPM layers. Either add them and train: `caffe-split "
        f"instrument {training.net_path} --window START:STOP --interval N`; or measure a series of snapshots with "
        f"--window START:STOP (there are snapshots of iterations {known})."
    )
