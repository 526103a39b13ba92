"""Folding a derived net back: every linear branch into the one convolution that it was split from."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split import __version__, jsontext
from caffe_split.batchnorm import add_bias, check_not_trained, merge_batch_norms
from caffe_split.cost import Cost
from caffe_split.errors import CaffeSplitError
from caffe_split.files import check_out, new_folder, sha256
from caffe_split.fit import check_weights
from caffe_split.graph import Graph, rules
from caffe_split.instrument import add_watchers, remove_watchers, watchers, windows_of
from caffe_split.net import all_layers, phase_layers
from caffe_split.plan import change
from caffe_split.proto import caffemodel, prototxt
from caffe_split.proto.nets import read_net, read_net_or_solver
from caffe_split.shapes import infer_shapes
from caffe_split.split.affine import CannotFold
from caffe_split.split.algebra import Kernels
from caffe_split.split.unsplit import Unsplit, grouped, innermost_first, stems, unsplit
from caffe_split.tpm.measure import is_state
from caffe_split.training import solver_net_path
from caffe_split.verify import Verification, verify

FOLDED_WEIGHTS_NAME = "folded.caffemodel"


@dataclass(frozen=True)
class FoldedLayer:
    """A convolution made of the layers of one split: `kind` what the split had added, `layers` how many they were,
    `note` what else had to change."""

    name: str
    kind: str
    layers: int
    note: str = ""


@dataclass(frozen=True)
class FoldPlan:
    """All that `fold` will write. `kept` says why a split stays, `norms` which BatchNorm and Scale layers went into
    which convolution; `texts` (file name -> bytes) and `weights` are the new folder's content."""

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
    check_weights(document, weights, weights_path)
    documents = [document] if deploy is None else [document, read_net(deploy, True, caffe_proto)]
    before = Cost.of(infer_shapes(phase_layers(document, "TEST")))
    blobs = {name: list(weights[name]) for name in weights if len(weights[name]) and not is_state(weights[name])}
    folded, kept = [], {}
    for stem in innermost_first([stem for each in documents for stem in stems(all_layers(each))]):
        try:
            layer, blobs = _fold(documents, stem, blobs, ungroup)
        except CannotFold as reason:
            kept[stem] = str(reason)
        else:
            folded.append(layer)
    norms: dict[str, tuple[str, ...]] = {}
    norms_kept: dict[str, str] = {}
    if batch_norm:
        for each in documents:
            check_not_trained(each)
        norms, norms_kept = merge_batch_norms(documents, blobs)
    if not folded and not norms:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in {**kept, **norms_kept}.items())
        raise CaffeSplitError(f"{net_path}: nothing to fold: {reasons or 'no split layers in it (X_reorder)'}.")
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


def _fold(
    documents: Sequence[prototxt.Document], stem: str, blobs: dict[str, list[np.ndarray]], ungroup: bool
) -> tuple[FoldedLayer, dict[str, list[np.ndarray]]]:
    """Fold one stem in all documents, or raise `CannotFold` and change nothing. Returns the new blobs."""
    graphs = [Graph(all_layers(document)) for document in documents]
    places = [(graph, found) for graph in graphs for found in unsplit(graph, stem, blobs)]
    first = places[0][1]
    for graph, found in places:
        if any(layer.name == stem for layer in graph.layers):
            raise CannotFold(f"there is another layer named '{stem}'")
        if not _same(first, found):
            raise CannotFold("the nets put its layers together differently")
    kernels, group, notes = first.kernels, first.geometry.group, []
    try:
        kernels = Kernels(grouped(kernels.weight, group), kernels.bias)
    except CannotFold:
        if not ungroup:
            raise
        notes.append(f"group {group} -> 1")
        group = 1
    param = first.first.message.sub("convolution_param")
    has_bias = param is None or bool(param.get("bias_term", True))
    bias = kernels.bias if kernels.bias is not None and (has_bias or kernels.bias.any()) else None
    blobs = dict(blobs)
    if bias is not None and not has_bias:
        norm = _absorbing_norm(places, blobs)
        if norm is not None:
            blobs[norm] = _shifted(blobs[norm], bias)
            bias = None
            notes.append(f"its new bias taken off the mean of '{norm}'")
        else:
            notes.append("with a bias, which it did not have")

    for document in documents:
        _put_back(document, [f for g, f in places if g is graphs[documents.index(document)]], kernels, group, bias)
    own = [kernels.weight.astype(np.float32)] + ([] if bias is None else [bias.astype(np.float32)])
    gone = {layer.name for _, found in places for layer in found.members}
    renamed: dict[str, list[np.ndarray]] = {}
    for name, values in blobs.items():
        if name == first.first.name:
            renamed[stem] = own
        elif name not in gone:
            renamed[name] = values
    return FoldedLayer(stem, first.kind, len(first.members), ", ".join(notes)), renamed


def _same(one: Unsplit, other: Unsplit) -> bool:
    """Whether two occurrences of a stem, of two phases or files, are the same convolution."""
    if one.geometry != other.geometry or one.kernels.weight.shape != other.kernels.weight.shape:
        return False
    first, second = (np.zeros(1) if each.kernels.bias is None else each.kernels.bias for each in (one, other))
    return np.allclose(one.kernels.weight, other.kernels.weight) and np.allclose(first, second)


def _absorbing_norm(places: Sequence[tuple[Graph, Unsplit]], blobs: dict[str, list[np.ndarray]]) -> str | None:
    """The BatchNorm that alone reads X's top, everywhere the same: a constant in front of it can move into its mean,
    and X stays without bias, as it was."""
    names = set()
    for graph, found in places:
        last = next(i for i, layer in enumerate(graph.layers) if layer is found.members[-1])
        reader = graph.sole_reader(last)
        if reader is None or graph.layers[reader].type != "BatchNorm":
            return None
        norm = graph.layers[reader]
        if rules(norm) != rules(found.first) or len(blobs.get(norm.name, [])) != 3:
            return None
        names.add(norm.name)
    name = names.pop() if len(names) == 1 else None
    return name if name is not None and blobs[name][2].reshape(-1)[0] != 0 else None


def _shifted(norm: Sequence[np.ndarray], bias: np.ndarray) -> list[np.ndarray]:
    """BatchNorm's blobs for an input that lacks `bias`: Caffe keeps the mean times the third blob."""
    mean = np.asarray(norm[0], dtype=np.float64) - (bias * float(norm[2].reshape(-1)[0])).reshape(norm[0].shape)
    return [mean.astype(np.float32), *norm[1:]]


def _put_back(
    document: prototxt.Document, places: Sequence[Unsplit], kernels: Kernels, group: int, bias: np.ndarray | None
) -> None:
    """X's text, which is that of X_split1 with another name, top and number of kernels, in place of all parts; what
    watched a part watches X."""
    names = {layer.name for found in places for layer in found.members}
    windows = {name: windows_of(watcher) for name, watcher in watchers(document).items() if name in names}
    remove_watchers(document, list(windows))
    for found in places:
        message = found.first.message
        message.set("name", found.stem)
        message.set("top", found.top)
        param = message.sub("convolution_param")
        assert param is not None
        param.set("num_output", len(kernels.weight))
        if group != found.geometry.group:
            param.remove("group")
        if bias is not None:
            add_bias(message)
        for layer in found.members:
            if layer is not found.first:
                document.remove(layer.field, keep_blank=False)
    if windows:
        stem = places[0].stem
        window = windows.get(places[0].first.name) or next(iter(windows.values()))
        add_watchers(document, {stem: kernels.weight.shape}, window)
        _sort_watcher(document, stem)


def _sort_watcher(document: prototxt.Document, name: str) -> None:
    """Put the new watcher, the last layer, before those of layers further down: the order `instrument` makes."""
    place = {layer.name: index for index, layer in reversed(list(enumerate(all_layers(document))))}
    found = watchers(document)
    own = found[name].field
    later = [watcher for watched, watcher in found.items() if place[watched] > place[name]]
    if later:
        document.remove(own, keep_blank=False)
        document.insert_before(min(later, key=lambda watcher: place[watcher.name]).field, own)


def write_folded(
    plan: FoldPlan, force: bool = False, check: bool = True, tolerance: float = 1e-4, batches: int = 1
) -> list[Verification]:
    """Write the plan's files into `plan.out`: all of them or nothing; manifest.json last.

    Before the folder gets its name each folded net is forwarded beside its source in the TEST phase (unless `check`
    is off). Raises `CaffeSplitError` where they differ by more than `tolerance`, or where the folder exists and not
    `force`. Returns the comparisons, one a net.
    """
    check_out(plan.out, force)
    with new_folder(plan.out, force) as folder:
        for name, data in plan.texts.items():
            (folder / name).write_bytes(data)
        caffemodel.write_weights(folder / FOLDED_WEIGHTS_NAME, plan.weights, types=plan.types)
        results = []
        for source in plan.sources if check else []:
            result = verify(
                source, folder / source.name, plan.weights_path, folder / FOLDED_WEIGHTS_NAME, batches,
                tolerance=tolerance, caffe_proto=plan.caffe_proto,
            )  # fmt: skip
            if not result.passed:
                worst = max(result.rows, key=lambda row: row.relative)
                raise CaffeSplitError(
                    f"{source}: folded, it would differ by {worst.relative:.3g} (relative) at blob '{worst.blob}', "
                    f"more than {tolerance:g}; nothing was written. If the weights are that badly conditioned, "
                    "raise --tolerance."
                )
            results.append(result)
        manifest = {
            "caffe_split": __version__,
            "command": [Path(sys.argv[0]).name, *sys.argv[1:]],
            "inputs": {str(path): sha256(path) for path in (*plan.sources, plan.weights_path)},
            "outputs": {name: sha256(folder / name) for name in (*plan.texts, FOLDED_WEIGHTS_NAME)},
            "plan": plan.as_dict(),
            "largest_difference": [result.worst for result in results],
        }
        (folder / "manifest.json").write_text(jsontext.dumps(manifest) + "\n", encoding="utf-8")
    return results
