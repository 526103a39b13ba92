"""Deriving a net: choose layers and kernels, plan the split, write net, solver and weights into a new folder."""

from __future__ import annotations

import hashlib
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from caffe_split import __version__, jsontext
from caffe_split.cost import Cost
from caffe_split.errors import CaffeSplitError
from caffe_split.files import check_out, new_folder
from caffe_split.fit import WEIGHTS_NAME, Blobs, check_weights
from caffe_split.net import Layer, all_layers, convolution_geometry, phase_layers
from caffe_split.plan import DerivePlan, LayerPlan
from caffe_split.proto import caffemodel, prototxt
from caffe_split.proto.nets import read_net
from caffe_split.proto.upgrade import upgrade
from caffe_split.shapes import infer_shapes
from caffe_split.solver import derived_solver
from caffe_split.split.algebra import Kernels
from caffe_split.split.layer import SplitOptions, split_convolution
from caffe_split.split.partition import PartitionRule, divide
from caffe_split.split.parts import Part
from caffe_split.split.rewrite import rewrite
from caffe_split.tpm.measure import is_state
from caffe_split.tpm.scores import LayerScores
from caffe_split.training import Training


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
    inputs: Mapping[str, tuple[int, ...]] | None = None,
) -> DerivePlan:
    """Work out the whole derivation in memory. `scores` may be empty when `rule` does not need them.

    Raises `CaffeSplitError` for weights that do not fit the net, and whatever cannot be split.
    """
    weights = caffemodel.read_weights(weights_path)
    check_weights(training.net, weights, weights_path)
    by_name = {score.layer: score for score in scores}
    shapes = infer_shapes(phase_layers(training.net, "TRAIN"), inputs)
    plans = [
        _plan_layer(layer, weights[layer.name], by_name.get(layer.name), rule, options, momentum, shapes.blobs)
        for layer in layers
    ]
    splits = {plan.name: plan.parts for plan in plans}

    texts: dict[str, bytes] = {}
    derived = _rewritten(training.net, splits)
    nets = [(training.net_path, derived)]
    notes = [f"{training.net_path}: {note}" for note in training.upgraded]
    others = [] if deploy is None else [deploy]
    solvers = []
    if training.solver is not None and training.solver_path is not None:
        solver, inner, named = derived_solver(training, out)
        solvers = [(training.solver_path, solver)]
        nets += [(path, _rewritten(net, splits)) for path, net in inner]
        others += named
    for path in others:
        net = read_net(path, caffe_proto=training.caffe_proto)
        notes += [f"{path}: {note}" for note in upgrade(net)]
        nets.append((path, _rewritten(net, splits)))
    for path, net in [*nets, *solvers]:
        _put(texts, path, net)
    blobs = _derived_weights(weights, splits)
    types = {layer.name: layer.type for layer in all_layers(derived)}
    after = infer_shapes(phase_layers(derived, "TRAIN"), inputs)
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
        before=Cost.of(shapes),
        after=Cost.of(after),
        texts=texts,
        weights=blobs,
        types=types,
        notes=tuple(notes),
    )


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
    shapes: Mapping[str, tuple[int, ...]],
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
    bottom = shapes.get(layer.bottoms[0], ())
    parts = split_convolution(
        layer.name,
        layer.bottoms[0],
        layer.tops[0],
        geometry,
        Kernels(weight, np.asarray(blobs[1], dtype=np.float64).reshape(-1) if len(blobs) > 1 else None),
        partition,
        options,
        (bottom[2], bottom[3]) if len(bottom) == 4 else None,
    )
    return LayerPlan(layer.name, partition, tuple(parts), scores, momentum)


def _rewritten(document: prototxt.Document, splits: Mapping[str, Sequence[Part]]) -> prototxt.Document:
    """A copy of the document with the splits in it; splits of layers that it does not have are left out."""
    copy = document.copy()
    present = {layer.name for layer in all_layers(copy)}
    rewrite(copy, {name: parts for name, parts in splits.items() if name in present})
    return copy


def _derived_weights(weights: Blobs, splits: Mapping[str, Sequence[Part]]) -> dict[str, list[np.ndarray]]:
    """The blobs of the derived net, in the net's order.

    TPM layers' state is left behind: the derived net's iterations are counted anew.
    """
    blobs: dict[str, list[np.ndarray]] = {}
    for name in weights:
        if name in splits:
            for part in splits[name]:
                if part.blobs:
                    blobs[part.name] = [np.ascontiguousarray(blob, dtype=np.float32) for blob in part.blobs]
        elif len(weights[name]) and not is_state(weights[name]):
            blobs[name] = list(weights[name])
    return blobs


def write_derived(plan: DerivePlan, force: bool = False) -> None:
    """Write the plan's files into `plan.out`: all of them or nothing.

    They are made in a folder beside it, which is renamed at the end; manifest.json is written last. Raises
    `CaffeSplitError` where the folder exists, unless `force`, which replaces it whole.
    """
    check_out(plan.out, force)
    with new_folder(plan.out, force) as folder:
        for name, data in plan.texts.items():
            (folder / name).write_bytes(data)
        caffemodel.write_weights(folder / WEIGHTS_NAME, plan.weights, net_name="", types=plan.types)
        inputs = [plan.net_path, plan.weights_path] + ([plan.solver_path] if plan.solver_path else [])
        inputs = [path for path in inputs if path.exists()]  # a net within its solver has no file
        manifest = {
            "caffe_split": __version__,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "inputs": {str(path): _sha256(path) for path in inputs},
            "outputs": {name: _sha256(folder / name) for name in (*plan.texts, WEIGHTS_NAME)},
            "plan": plan.as_dict(),
        }
        (folder / "manifest.json").write_text(jsontext.dumps(manifest) + "\n", encoding="utf-8")


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
