"""Folding a derived net back: every linear branch into the one convolution that it was split from."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.backends.check_weights import check_weights
from caffe_split.backends.verify import Verification, verify
from caffe_split.derivation.plan import change
from caffe_split.errors import CaffeSplitError
from caffe_split.files import new_folder
from caffe_split.folding.batch_norm import check_not_trained, merge_batch_norms
from caffe_split.folding.merge import FoldedLayer, merge_stems
from caffe_split.formats.prototxt.nets import read_net, read_net_or_solver
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.cost import Cost
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.manifest import write_manifest
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.training import solver_net_path
from caffe_split.tpm.state import is_state

FOLDED_WEIGHTS_NAME = "folded.caffemodel"


@dataclass(frozen=True)
class FoldPlan:
    """All that `fold` will write. `kept` says why a split stays, `norms` which BatchNorm and Scale layers went into
    which convolution; `texts` (file name -> bytes) and `weights` are the new folder's content.
    """

    net_path: Path
    deploy_path: Path | None
    weights_path: Path
    out: Path
    folded: tuple[FoldedLayer, ...]
    kept: dict[str, str]
    norms: dict[str, tuple[str, ...]]
    norms_kept: dict[str, str]
    before: Cost
    after: Cost
    texts: dict[str, bytes]
    weights: dict[str, list[np.ndarray]]
    types: dict[str, str]
    caffe_proto: Path | None = None

    @property
    def sources(self) -> list[Path]:
        """The nets that are folded."""
        return [self.net_path] if self.deploy_path is None else [self.net_path, self.deploy_path]

    def lines(self) -> list[str]:
        """The plan for a reader."""
        lines = [f"{self.net_path} with {self.weights_path} -> {self.out}"]
        for layer in self.folded:
            note = f"; {layer.note}" if layer.note else ""
            lines.append(f"  {layer.name}: {layer.kind}, {layer.layers} layers -> 1{note}")
        lines += [f"  {name}: {' and '.join(norms)} merged into it" for name, norms in self.norms.items()]
        lines += [f"  not folded: {name}: {reason}" for name, reason in self.kept.items()]
        lines += [f"  BatchNorm stays behind {name}: {reason}" for name, reason in self.norms_kept.items()]
        lines.append(f"parameters {change(self.before.parameters, self.after.parameters)}")
        lines.append(f"multiply-adds an image {change(self.before.macs, self.after.macs)}")
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {
            "net": str(self.net_path),
            "deploy": None if self.deploy_path is None else str(self.deploy_path),
            "weights": str(self.weights_path),
            "folded": [vars(layer) for layer in self.folded],
            "kept": self.kept,
            "batch_norm": {name: list(norms) for name, norms in self.norms.items()},
            "batch_norm_kept": self.norms_kept,
            "before": vars(self.before),
            "after": vars(self.after),
        }


def make_fold(
    net_path: Path,
    weights_path: Path,
    out: Path,
    deploy: Path | None = None,
    batch_norm: bool = False,
    ungroup: bool = False,
    caffe_proto: Path | None = None,
) -> FoldPlan:
    """Work out in memory what folding gives; inner splits (of later rounds) before outer ones.

    A split that cannot be folded stays whole, and the plan says why. `batch_norm` merges BatchNorm (and Scale) into
    the convolutions before them; `ungroup` lets a convolution lose its groups where the split has learnt to mix
    them. TPM layers' state is left behind. Raises `CaffeSplitError` for weights that do not fit, for a net to train
    with `batch_norm`, and where nothing can be folded.
    """
    given = read_net_or_solver(net_path, caffe_proto)
    if given.kind == "solver":
        net_path = solver_net_path(given)
    document = read_net(net_path, True, caffe_proto)
    if deploy is not None and deploy.name == net_path.name:
        raise CaffeSplitError(f"{net_path} and {deploy} would both be written as {out / deploy.name}; rename one.")
    weights = caffemodel.read_weights(weights_path)
    check_weights(document, weights, weights_path, "TEST")
    documents = [document] if deploy is None else [document, read_net(deploy, True, caffe_proto)]
    before = Cost.of(infer_shapes(phase_layers(document, "TEST")))
    blobs = {name: list(weights[name]) for name in weights if len(weights[name]) and not is_state(weights[name])}
    folded, kept, blobs = merge_stems(documents, blobs, ungroup)
    norms: dict[str, tuple[str, ...]] = {}
    norms_kept: dict[str, str] = {}
    if batch_norm:
        for each in documents:
            check_not_trained(each)
        norms, norms_kept = merge_batch_norms(documents, blobs)
    if not folded and not norms:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in {**kept, **norms_kept}.items())
        raise CaffeSplitError(f"{net_path}: nothing to fold: {reasons or 'no split layers in it'}.")
    return FoldPlan(
        net_path=net_path,
        deploy_path=deploy,
        weights_path=weights_path,
        out=out,
        folded=tuple(folded),
        kept=kept,
        norms=norms,
        norms_kept=norms_kept,
        before=before,
        after=Cost.of(infer_shapes(phase_layers(document, "TEST"))),
        texts={Path(each.filename).name: each.to_bytes() for each in documents},
        weights=blobs,
        types={layer.name: layer.type for layer in all_layers(document)},
        caffe_proto=caffe_proto,
    )


def write_folded(
    plan: FoldPlan,
    force: bool = False,
    check: bool = True,
    tolerance: float = 1e-4,
    batches: int = 1,
    engine: str | None = None,
) -> list[Verification]:
    """Write the plan's files into `plan.out`: all of them or nothing; manifest.json last.

    Before the folder gets its name each folded net is forwarded beside its source in the TEST phase (unless `check`
    is off), in `engine` (see `verify`). Raises `CaffeSplitError` where they differ by more than `tolerance`, or where
    the folder exists and not `force`. Returns the comparisons, one a net.
    """
    with new_folder(plan.out, force) as folder:
        for name, data in plan.texts.items():
            (folder / name).write_bytes(data)
        caffemodel.write_weights(folder / FOLDED_WEIGHTS_NAME, plan.weights, types=plan.types)
        results = []
        for source in plan.sources if check else []:
            result = verify(
                source,
                folder / source.name,
                plan.weights_path,
                folder / FOLDED_WEIGHTS_NAME,
                batches,
                tolerance=tolerance,
                caffe_proto=plan.caffe_proto,
                engine=engine,
            )
            if not result.passed:
                worst = max(result.rows, key=lambda row: row.relative)
                raise CaffeSplitError(
                    f"{source}: folded, it would differ by {worst.relative:.3g} (relative) at blob '{worst.blob}', "
                    f"more than {tolerance:g}; nothing was written. If the weights are that badly conditioned, "
                    "raise --tolerance."
                )
            results.append(result)
        outputs = (*plan.texts, FOLDED_WEIGHTS_NAME)
        differences = [result.worst for result in results]
        write_manifest(
            folder, (*plan.sources, plan.weights_path), outputs, plan.as_dict(), largest_difference=differences
        )
    return results
