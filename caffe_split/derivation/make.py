"""Deriving a net: plan the split of chosen layers in memory, net, solver, weights and solver state."""

from __future__ import annotations

import tempfile
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caffe_split.backends.caffe import statistics as in_caffe
from caffe_split.backends.check_weights import WEIGHTS_NAME, Blobs, check_convolution, check_weights
from caffe_split.backends.choose import choose_engine
from caffe_split.derivation.documents import Size, input_sizes, read_files
from caffe_split.derivation.history import continued, parent_state
from caffe_split.derivation.plan import DerivePlan, LayerPlan
from caffe_split.derivation.rewrite import rewrite
from caffe_split.engine import require_torch
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.formats.weights.solverstate import SolverState
from caffe_split.layertypes.cost import Cost
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import Layer, all_layers, convolution_geometry, phase_layers
from caffe_split.net.training import Training
from caffe_split.split.algebra import Kernels
from caffe_split.split.branch_norm import NormSettings, branch_ends, normalised
from caffe_split.split.layer import SplitOptions, split_convolution
from caffe_split.split.partition import Partition, PartitionRule, divide
from caffe_split.split.parts import Part
from caffe_split.tpm.fresh import fresh_state
from caffe_split.tpm.layers import remove_watchers, watchers, windows_of
from caffe_split.tpm.scores import LayerScores
from caffe_split.tpm.state import is_state


def make_plan(
    training: Training,
    weights_path: Path,
    iteration: int | None,
    layers: Sequence[Layer],
    scores: Sequence[LayerScores],
    rule: PartitionRule,
    options: SplitOptions,
    out: Path,
    momentum: float = 0.0,
    schedule: str = "restart",
    deploy: Path | None = None,
    ignore_extra: bool = False,
    inputs: Mapping[str, tuple[int, ...]] | None = None,
    engine: str | None = None,
) -> DerivePlan:
    """Work out the whole derivation in memory. `scores` may be empty when `rule` does not need them.

    `schedule` is 'restart' or 'continue', which also makes a solver state; `deploy` a net to change alike;
    `ignore_extra` leaves weights of layers out that the net does not have; `inputs` gives the shapes of data blobs
    that cannot be read off their source; `engine`, 'caffe' or 'torch', measures for `branch_norm` (default: the first
    that is installed). Raises `CaffeSplitError` for weights that do not fit the net, and whatever cannot be split.
    """
    weights = caffemodel.read_weights(weights_path)
    stages = training.stages
    check_weights(training.net, weights, weights_path, "TRAIN", stages, training.level, ignore_extra, inputs)
    _check_trained(training, layers, weights, weights_path)
    parent = _parent_state(training, weights_path, iteration) if schedule == "continue" else None
    by_name = {score.layer: score for score in scores}
    files = read_files(training, out, deploy, {layer.name for layer in layers})
    sizes = {}
    if options.kind == "skip" and options.skip_pool == "average":
        sizes = input_sizes([net for _, net in files.nets], stages, training.level, inputs)
    plans = [
        _plan_layer(
            layer, weights[layer.name], by_name.get(layer.name), rule, options, momentum, sizes.get(layer.name, ())
        )
        for layer in layers
    ]
    norm = norm_settings(training.net)
    engine = (engine or choose_engine()) if options.branch_norm else None
    if engine is not None:
        plans = _normalised(training, weights, plans, norm, options.branch_norm, engine)
    edit = _Edit({plan.name: plan.parts for plan in plans}, norm, parent[1].iter if parent is not None else 0)

    documents = [(path, edit.applied_to(net)) for path, net in files.nets]
    derived = documents[0][1]
    texts: dict[str, bytes] = {}
    for path, document in [*documents, *files.solver]:
        _put(texts, path, document)
    known = {layer.name for layer in all_layers(training.net)}
    kept_states = () if parent is None else _kept_watchers(training.net, edit.splits)
    blobs = _derived_weights({name: weights[name] for name in weights if name in known}, edit.splits, kept_states)
    state, read = None, list(files.read)
    if parent is not None:
        _complete_states(blobs, derived, parent[1].iter)
        partitions = {plan.name: plan.partition for plan in plans}
        pairs = (training.net, weights), (derived, blobs)
        state = continued(*parent, *pairs, partitions, str(out / WEIGHTS_NAME), stages, training.level)
        read.append(parent[0])
    return DerivePlan(
        net_path=training.net_path,
        solver_path=training.solver_path,
        weights_path=weights_path,
        iteration=iteration,
        out=out,
        options=options,
        partition=rule.text,
        schedule=schedule,
        layers=tuple(plans),
        before=Cost.of(infer_shapes(training.train_layers(), inputs)),
        after=Cost.of(infer_shapes(phase_layers(derived, "TRAIN", stages, training.level), inputs)),
        texts=texts,
        weights=blobs,
        types={layer.name: layer.type for layer in all_layers(derived)},
        state=state,
        inputs=tuple(path for path in (*read, weights_path) if path.is_file()),
        notes=files.notes,
        engine=engine,
    )


def _check_trained(training: Training, layers: Sequence[Layer], weights: Blobs, path: Path) -> None:
    """Raises `CaffeSplitError` for a layer that the training leaves out: there is nothing of it to go on from.

    Without a solver there is no telling the stages: then a layer is good if it has weights that fit.
    """
    trained = {layer.name for layer in training.train_layers()}
    for layer in layers:
        if layer.name not in trained and training.solver is None:
            check_convolution(layer, weights.get(layer.name, ()), path)
        elif layer.name not in trained:
            raise CaffeSplitError(
                f"{training.net_path}: {layer.where} is not in the net that is trained; its include or exclude rules "
                f"leave it out (stages: {', '.join(training.stages) or 'none'}; level {training.level})."
            )


@dataclass(frozen=True)
class _Edit:
    """What is done to every document alike."""

    splits: Mapping[str, Sequence[Part]]
    norm: NormSettings
    watch_from: int = 0

    def applied_to(self, document: prototxt.Document) -> prototxt.Document:
        """A copy of the document with the splits in it; splits of layers that it does not have are left out."""
        copy = document.copy()
        present = {layer.name for layer in all_layers(copy)}
        splits = {name: parts for name, parts in self.splits.items() if name in present}
        rewrite(copy, splits, self.norm, self.watch_from)
        return copy


def norm_settings(document: prototxt.Document) -> NormSettings:
    """The settings of the net's first BatchNorm layer; Caffe's defaults where it has none."""
    for layer in all_layers(document):
        param = layer.message.sub("batch_norm_param")
        if layer.type == "BatchNorm" and param is not None:
            return NormSettings(float(param.get("eps", 1e-5)), float(param.get("moving_average_fraction", 0.999)))
    return NormSettings()


def _normalised(
    training: Training,
    weights: Blobs,
    plans: Sequence[LayerPlan],
    norm: NormSettings,
    batches: int,
    engine: str,
) -> list[LayerPlan]:
    """The plans with normalised branches, their statistics measured on the net split without them."""
    if all(layer.type == "Input" for layer in training.train_layers() if not layer.bottoms and layer.type != "TPM"):
        raise CaffeSplitError(
            f"{training.net_path}: --branch-norm measures the net's own training data, and this net has no data layer. "
            "Give the training net or its solver, and this one as --deploy."
        )
    splits = {plan.name: plan.parts for plan in plans}
    ends = [name for parts in splits.values() for name in branch_ends(parts)]
    with tempfile.TemporaryDirectory() as folder:
        net, path = Path(folder) / "net.prototxt", Path(folder) / WEIGHTS_NAME
        derived = _Edit(splits, norm).applied_to(training.net)
        remove_watchers(derived)
        net.write_bytes(derived.to_bytes())
        caffemodel.write_weights(path, _derived_weights(weights, splits))
        if engine == "torch":
            require_torch()
            from caffe_split.backends.torch import channel_statistics
        else:
            channel_statistics = in_caffe.channel_statistics
        statistics = channel_statistics(net, path, ends, batches, training.stages, training.level)
    return [replace(plan, parts=tuple(normalised(plan.parts, statistics, norm))) for plan in plans]


def _parent_state(training: Training, weights: Path, iteration: int | None) -> tuple[Path, SolverState]:
    if training.solver is None:
        raise CaffeSplitError(f"{training.net_path}: --schedule continue needs the solver that trained it. Name it.")
    return parent_state(weights, iteration, training.solver.get("max_iter", None))


def _kept_watchers(document: prototxt.Document, splits: Mapping[str, Sequence[Part]]) -> list[str]:
    """The TPM layers that go on watching in the derived net."""
    return [watcher.name for name, watcher in watchers(document).items() if name not in splits]


def _complete_states(blobs: dict[str, list[np.ndarray]], derived: prototxt.Document, iteration: int) -> None:
    """State for the TPM layers of new layers, which must know at which iteration they start to count.

    Kept state out of an HDF5 snapshot gets the shared weight that Caffe leaves out there.
    """
    for name, watcher in watchers(derived).items():
        if watcher.name not in blobs:
            blobs[watcher.name] = fresh_state(blobs[name][0], windows_of(watcher), iteration)
        blobs[watcher.name][0] = blobs[name][0]


def _put(texts: dict[str, bytes], path: Path, document: prototxt.Document) -> None:
    data = document.to_bytes()
    if texts.setdefault(path.name, data) != data:
        raise CaffeSplitError(f"{path}: the new folder would have two files of the name {path.name}; rename one.")


def _plan_layer(
    layer: Layer,
    blobs: Sequence[np.ndarray],
    scores: LayerScores | None,
    rule: PartitionRule,
    options: SplitOptions,
    momentum: float,
    sizes: tuple[Size | None, ...],
) -> LayerPlan:
    geometry = convolution_geometry(layer)
    weight = np.asarray(blobs[0], dtype=np.float64)
    if rule.needs_scores and scores is None:
        raise CaffeSplitError(
            f"{layer.where}: partition {rule.text} needs its TPM, and it was not watched. Watch it with "
            "`caffe-split instrument` and train, keep a series of snapshots over the window, or use random:SEED."
        )
    values = np.zeros(len(weight)) if scores is None else scores.tpm
    try:
        partition = divide(rule, values, geometry.group, salt=layer.name)
    except CaffeSplitError as error:
        raise CaffeSplitError(f"{layer.where}: {error}") from error
    kernels = Kernels(weight, np.asarray(blobs[1], dtype=np.float64).reshape(-1) if len(blobs) > 1 else None)
    ends = layer.bottoms[0], layer.tops[0]
    parts = split_convolution(layer.name, *ends, geometry, kernels, partition, options=options, input_sizes=sizes)
    note = _rounding_note(layer.name, parts, kernels, partition) if options.init == "exact" else ""
    return LayerPlan(layer.name, partition, tuple(parts), scores, momentum, note)


def _rounding_note(name: str, parts: Sequence[Part], kernels: Kernels, partition: Partition) -> str:
    """A warning where a skip is so much larger than a kernel that taking it off costs that kernel's digits.

    split2 then stores (kernel - skip), rounded to float32: the error, relative to the kernel, is the rounding unit
    times their ratio.
    """
    skip = next((part for part in parts if part.frozen), None)
    if skip is None:
        return ""
    ratios = Kernels(skip.blobs[0], None).sizes / np.maximum(kernels.rows(partition.slow).sizes, 1e-30)
    error = float(ratios.max()) * 2.0**-24
    if error < 1e-5:
        return ""
    return f"the skip is up to {ratios.max():.1e} times a kernel's size: the start is exact to about {error:.0e} there"


def _derived_weights(
    weights: Blobs, splits: Mapping[str, Sequence[Part]], kept_states: Collection[str] = ()
) -> dict[str, list[np.ndarray]]:
    """The blobs of the derived net, in the net's order.

    TPM layers' state is left behind, that of `kept_states` apart: the derived net's iterations are counted anew.
    """
    blobs: dict[str, list[np.ndarray]] = {}
    for name in weights:
        if name in splits:
            for part in splits[name]:
                if part.blobs:
                    blobs[part.name] = [np.ascontiguousarray(blob, dtype=np.float32) for blob in part.blobs]
        elif len(weights[name]) and (name in kept_states or not is_state(weights[name])):
            blobs[name] = list(weights[name])
    return blobs
