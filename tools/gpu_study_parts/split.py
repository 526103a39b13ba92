"""What the study does to nets between trainings, on processors: split a snapshot, fold a trained net.

Runs in processes of its own, without PyTorch, in the study's folder: all paths are relative to it.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

import caffe_split as cs
from caffe_split.backends.check_weights import FOLDED_WEIGHTS_NAME
from caffe_split.layertypes.cost import Cost
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import TRAIN
from caffe_split.split.recognise import find_splits
from gpu_study_parts.net import Program, program_of

NET, SOLVER = "train_val.prototxt", "solver.prototxt"
Blobs = Mapping[str, Sequence[np.ndarray]]
# A net to train: its operations, its first weights, and what people may want to know of it.
Made = "tuple[Program, dict[str, list[np.ndarray]], dict[str, Any]]"
INPUTS = {"data": (128, 3, 32, 32), "label": (128,)}


@dataclass(frozen=True)
class Cut:
    """How an arm splits its parent's snapshot."""

    kind: str
    skip_pool: str = "stride"
    partition: str = "median"
    count: int = 9


def write_blobs(path: Path, net: Path, blobs: Blobs) -> None:
    """A caffemodel of `net`, its layers in the net's order."""
    layers = all_layers(cs.read_net(net))
    types = {layer.name: layer.type for layer in layers if layer.name in blobs}
    cs.write_weights(path, {name: blobs[name] for name in types}, types=types)


def read_program(net: Path, weights: Blobs) -> Program:
    """The net's TRAIN phase as operations."""
    return program_of(cs.read_net(net), {name: [blob.shape for blob in weights[name]] for name in weights})


def cost_of(net: Path) -> dict[str, Any]:
    """Parameters, and multiply-adds for one image, of the TRAIN net."""
    return asdict(Cost.of(infer_shapes(phase_layers(cs.read_net(net), TRAIN), INPUTS)))


def split(
    parent: str, out: str, iteration: int, blobs: Blobs, scores: Sequence[Mapping[str, Any]], cut: Cut, *, seed: int
) -> Made:
    """Split the snapshot `blobs` of the net in folder `parent` into the new folder `out`.

    The `cut.count` convolutions of highest TPM entropy are split. Returns the derived net's program, its initial
    blobs, and what people may want to know of it. `seed` is that of the noise.
    """
    path = Path(parent) / f"split_iter_{iteration}.caffemodel"
    write_blobs(path, Path(parent) / NET, blobs)
    training = cs.open_training(Path(parent) / SOLVER)
    seen = [cs.LayerScores(**score) for score in scores]
    options = cs.DeriveOptions(cut.kind, "exact", seed=seed, skip_pool=cut.skip_pool, partition=cut.partition)
    plan = cs.derive(training, weights=path, scores=seen, layers=cut.count, options=options, out=out, inputs=INPUTS)
    plan = replace(plan, iteration=iteration)  # the snapshot's, which is not among the solver's own
    # Forced, for where an earlier run was killed before it had noted the facts.
    plan.write(force=True)
    weights = {name: [np.array(blob) for blob in plan.weights[name]] for name in plan.weights}
    entropies = {score.layer: score.entropy for score in seen}
    facts = {
        "layers": {layer.name: entropies[layer.name] for layer in plan.layers},
        "halves": {layer.name: [len(layer.partition.fast), len(layer.partition.slow)] for layer in plan.layers},
        "cost": cost_of(Path(out) / NET),
        "plan": plan.lines(),
    }
    return read_program(Path(out) / NET, weights), weights, facts


def fold(folder: str, iteration: int, blobs: Blobs) -> dict[str, Any]:
    """Write the last weights of the net in `folder`, and where it has splits its folded net into `folder`/folded.

    Returns the (net, weights) pairs to compare, the folded one last, and the folded net's cost.
    """
    path = Path(folder)
    last = path / f"last_iter_{iteration}.caffemodel"
    write_blobs(last, path / NET, blobs)
    pairs = [(str(path / NET), str(last))]
    if not find_splits(all_layers(cs.read_net(path / NET))):
        return {"pairs": pairs, "cost": cost_of(path / NET), "kept": {}}
    plan = cs.fold(path / NET, last, out=path / "folded")
    plan.write(force=True, check=None)
    pairs.append((str(path / "folded" / NET), str(path / "folded" / FOLDED_WEIGHTS_NAME)))
    return {"pairs": pairs, "cost": cost_of(path / "folded" / NET), "kept": plan.kept}


def weights_of(path: Path) -> dict[str, list[np.ndarray]]:
    """The blobs of a caffemodel, as arrays of their own."""
    weights = cs.read_weights(path)
    return {name: [np.array(blob) for blob in weights[name]] for name in weights}


def save(path: Path, arrays: Mapping[str, np.ndarray]) -> None:
    """An .npz, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp.npz")
    np.savez(temporary, **arrays)
    os.replace(temporary, path)


def keep_split(folder: str, iteration: int, blobs: Mapping[str, Sequence[np.ndarray]], scores: Sequence[dict]) -> None:
    """Write a split snapshot and what TPM saw; `split.npz`, which says that both are there, last."""
    path = Path(folder)
    write_blobs(path / f"split_iter_{iteration}.caffemodel", path / NET, blobs)
    save(path / "split.npz", {"iteration": np.array(iteration), "scores": np.array(json.dumps(scores, default=_plain))})


def write_json(path: Path, value: Any) -> None:
    """A JSON file, whole or not at all."""
    temporary = path.with_name(f".{path.name}.tmp")
    temporary.write_text(json.dumps(value, indent=1), encoding="utf-8")
    os.replace(temporary, path)


def _plain(value: Any) -> Any:
    return value.tolist() if isinstance(value, np.ndarray) else float(value)


def read_scores(folder: Path) -> tuple[int, list[dict]]:
    """(iteration, scores) of a kept split snapshot."""
    with np.load(folder / "split.npz") as stored:
        scores = json.loads(str(stored["scores"]))
        iteration = int(stored["iteration"])
    for score in scores:
        score["shape"] = tuple(score["shape"])
        for name in ("displacement", "path"):
            score[name] = np.array(score[name], np.float64)
    return iteration, scores


def make_net(parent: str, folder: str, cut: Cut | None, seed: int) -> Made:
    """(program, weights, facts) of the net that begins from the parent's split snapshot."""
    iteration, scores = read_scores(Path(parent))
    snapshot = Path(parent) / f"split_iter_{iteration}.caffemodel"
    weights = weights_of(snapshot)
    path = Path(folder)
    if cut is None:
        path.mkdir(parents=True, exist_ok=True)
        for name in (NET, SOLVER):
            text = (Path(parent) / name).read_text(encoding="utf-8").replace(f'"{parent}/', f'"{folder}/')
            (path / name).write_text(text, encoding="utf-8")
        return read_program(path / NET, weights), weights, {"cost": cost_of(path / NET)}
    if (path / "manifest.json").exists():
        start = weights_of(path / "init.caffemodel")
        facts = json.loads((path / "facts.json").read_text()) if (path / "facts.json").exists() else None
        if facts is not None:
            return read_program(path / NET, start), start, facts
    return split(parent, folder, iteration, weights, scores, cut, seed=seed)
