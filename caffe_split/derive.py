"""Deriving a net: choose layers and kernels, plan the split, write net, solver and weights into a new folder."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from caffe_split import __version__, jsontext
from caffe_split.cost import Cost
from caffe_split.errors import CaffeSplitError
from caffe_split.net import Layer, all_layers, convolution_geometry, convolutions, phase_layers, sharers
from caffe_split.plan import DerivePlan, LayerPlan
from caffe_split.proto import caffemodel, prototxt
from caffe_split.shapes import infer_shapes
from caffe_split.split.algebra import Kernels
from caffe_split.split.layer import SplitOptions, split_convolution
from caffe_split.split.partition import PartitionRule, divide
from caffe_split.split.parts import Part, is_helper
from caffe_split.split.rewrite import rewrite
from caffe_split.tpm.measure import is_state
from caffe_split.tpm.report import ranked
from caffe_split.tpm.scores import LayerScores
from caffe_split.training import Training

Blobs = Mapping[str, Sequence[np.ndarray]]
WEIGHTS_NAME = "init.caffemodel"


def why_not(layer: Layer, layers: Sequence[Layer]) -> str | None:
    """Why a convolution cannot be split, or None."""
    if layer.type != "Convolution":
        return f"it is a {layer.type} layer"
    if is_helper(layer.name):
        return "it is a helper of an earlier split"
    specs = layer.message.subs("param")
    if specs and specs[0].get("lr_mult", 1) == 0:
        return "it is frozen (lr_mult 0)"
    if len(layer.bottoms) != 1 or len(layer.tops) != 1:
        return f"it has {len(layer.bottoms)} bottoms and {len(layer.tops)} tops"
    if layer.message.has("loss_weight"):
        return "its top is a loss"
    shared = sharers(layers, layer)
    if shared:
        return f"it shares its weight with {', '.join(shared)}"
    param = layer.message.sub("convolution_param")
    kernels, group = (int(param.get("num_output", 0)), int(param.get("group", 1))) if param else (0, 1)
    if kernels // group < 2:
        return "depthwise, one kernel a group" if group > 1 else "it has one kernel"
    try:
        convolution_geometry(layer)
    except CaffeSplitError as error:
        return str(error)
    return None


def candidates(document: prototxt.Document) -> list[Layer]:
    """The convolutions that can be split, in the net's order."""
    layers = all_layers(document)
    return [layer for layer in convolutions(layers) if why_not(layer, layers) is None]


def choose_layers(
    document: prototxt.Document, names: Sequence[str] | None, count: int, scores: Sequence[LayerScores]
) -> list[Layer]:
    """The layers to split, in the net's order: those of `names`, or the `count` of highest TPM entropy.

    Raises `CaffeSplitError` for a name that is not there or cannot be split, naming those that can, and when
    fewer than `count` layers have scores.
    """
    layers = all_layers(document)
    possible = {layer.name: layer for layer in candidates(document)}
    listing = ", ".join(possible) or "none"
    if names is not None:
        for name in names:
            if name not in possible:
                found = next((layer for layer in layers if layer.name == name), None)
                reason = "there is no such layer" if found is None else why_not(found, layers)
                raise CaffeSplitError(f"layer '{name}' cannot be split: {reason}. Those that can: {listing}.")
        return [layer for name, layer in possible.items() if name in names]
    best = [score.layer for score in ranked(scores) if score.layer in possible][:count]
    if len(best) < count:
        raise CaffeSplitError(
            f"{count} layer(s) to choose by TPM entropy, but only {len(best)} that can be split have scores "
            f"({', '.join(best) or 'none'}). Layers that can be split: {listing}. Watch more layers with "
            "`caffe-split instrument`, or lower --num-splits."
        )
    return [layer for name, layer in possible.items() if name in best]


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
    texts[training.net_path.name] = derived.to_bytes()
    if deploy is not None:
        texts[deploy.name] = _rewritten(prototxt.read(deploy), splits).to_bytes()
    if training.solver is not None and training.solver_path is not None:
        texts[training.solver_path.name] = _solver(training, out).to_bytes()
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
    )


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
    copy = prototxt.parse(document.to_bytes(), "net", document.filename)
    present = {layer.name for layer in all_layers(copy)}
    rewrite(copy, {name: parts for name, parts in splits.items() if name in present})
    return copy


def _solver(training: Training, out: Path) -> prototxt.Document:
    """The parent's solver, training the derived net from its weights into the new folder."""
    assert training.solver is not None and training.solver_path is not None and training.prefix is not None
    solver = prototxt.parse(training.solver.to_bytes(), "solver", str(training.solver_path))
    for key in ("net_param", "train_net_param", "test_net", "test_net_param"):
        if solver.has(key):
            raise CaffeSplitError(
                f"{training.solver_path}: a solver with {key} is not derived; name one file for all phases with `net`."
            )
    key = "net" if solver.has("net") else "train_net"
    solver.set(key, str(out / training.net_path.name))
    solver.set("snapshot_prefix", str(out / Path(training.prefix).name))
    solver.remove("weights")
    solver.add("weights", str(out / WEIGHTS_NAME), after=solver.field(key))
    return solver


def check_weights(document: prototxt.Document, weights: Blobs, path: Path) -> None:
    """Raises `CaffeSplitError` where weights and net do not name the same layers, or a convolution's shape differs."""
    layers = {layer.name: layer for layer in all_layers(document)}
    # A snapshot also lists Caffe's own Split layers, without blobs, and the state of TPM layers, which a deploy net
    # does not have.
    strange = [name for name in weights if name not in layers and len(weights[name]) and not is_state(weights[name])]
    if strange:
        raise CaffeSplitError(
            f"{path}: it has weights of {', '.join(map(repr, strange))}, which {document.filename} does not have. "
            "Is it a snapshot of this net?"
        )
    for layer in layers.values():
        if layer.type not in ("Convolution", "InnerProduct", "Deconvolution"):
            continue
        if not weights.get(layer.name):
            raise CaffeSplitError(f"{path}: no weights of {layer.where}. Is it a snapshot of {document.filename}?")
        for blob in weights[layer.name]:
            if not np.isfinite(blob).all():
                raise CaffeSplitError(
                    f"{path}: the weights of {layer.where} are not finite ({np.count_nonzero(~np.isfinite(blob))} of "
                    f"{blob.size}). Take an earlier snapshot."
                )
        if layer.type == "Convolution":
            _check_convolution(layer, weights[layer.name], path)


def _check_convolution(layer: Layer, blobs: Sequence[np.ndarray], path: Path) -> None:
    param = layer.message.sub("convolution_param")
    assert param is not None
    count = int(param.get("num_output", 0))
    sizes = [int(size) for size in param.get_all("kernel_size")]
    found = tuple(blobs[0].shape)
    fits = found[0] == count and (len(sizes) != 1 or len(found) != 4 or found[2:] == (sizes[0], sizes[0]))
    if not fits or len(blobs) != (2 if param.get("bias_term", True) else 1):
        raise CaffeSplitError(
            f"{path}: {layer.where} has blobs {[tuple(blob.shape) for blob in blobs]}, but the net asks for {count} "
            f"kernels of {'x'.join(map(str, sizes * 2 if len(sizes) == 1 else sizes)) or 'its kernel_h x kernel_w'}"
            f"{' and a bias' if param.get('bias_term', True) else ' without bias'}."
        )


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
    with _new_folder(plan.out, force) as folder:
        for name, data in plan.texts.items():
            (folder / name).write_bytes(data)
        caffemodel.write_weights(folder / WEIGHTS_NAME, plan.weights, net_name="", types=plan.types)
        inputs = [plan.net_path, plan.weights_path] + ([plan.solver_path] if plan.solver_path else [])
        manifest = {
            "caffe_split": __version__,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "inputs": {str(path): _sha256(path) for path in inputs},
            "outputs": {name: _sha256(folder / name) for name in (*plan.texts, WEIGHTS_NAME)},
            "plan": plan.as_dict(),
        }
        (folder / "manifest.json").write_text(jsontext.dumps(manifest) + "\n", encoding="utf-8")


def check_out(out: Path, force: bool) -> None:
    """Raises `CaffeSplitError` where `out` may not be written."""
    if out.exists() and not force:
        raise CaffeSplitError(f"{out} exists; nothing is overwritten unasked. Choose another --out, or add --force.")
    if not out.parent.is_dir():
        raise CaffeSplitError(f"{out.parent}: no such folder to make {out.name} in.")


@contextlib.contextmanager
def _new_folder(out: Path, force: bool) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and is removed when it does not."""
    building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    try:
        os.chmod(building, 0o755)
        yield building
        if force and out.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent)) / out.name
            os.rename(out, aside)
            os.rename(building, out)
            shutil.rmtree(aside.parent)
        else:
            os.rename(building, out)
    finally:
        shutil.rmtree(building, ignore_errors=True)


def _sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
