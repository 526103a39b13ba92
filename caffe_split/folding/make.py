"""Folding a derived net back: every linear branch into the one convolution that it was split from."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.backends.check_weights import FOLDED_WEIGHTS_NAME, check_weights
from caffe_split.backends.verify import DEFAULTS, Verification, VerifyOptions, verify
from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.files import PathLike, new_folder, write_atomic
from caffe_split.folding.batch_norm import check_not_trained, merge_batch_norms
from caffe_split.folding.merge import FoldedLayer, merge_stems
from caffe_split.folding.trim import TrimmedSplit
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.cost import Cost, changes
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.manifest import write_manifest
from caffe_split.net.bottoms import check_bottoms
from caffe_split.net.chosen import choose_net
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.shared import settle_shared
from caffe_split.net.state import TEST, TESTED, AskedState, NetState
from caffe_split.split.recognise import all_splits
from caffe_split.tpm.state import is_state


@dataclass(frozen=True)
class FoldOptions:
    """What is folded, and how.

    deploy: a deploy net to fold alike. batch_norm: merge BatchNorm, and a Scale after it, into the convolutions before
    them. ungroup: let a convolution lose its groups where its split has learnt to mix them. layers: fold only the
    splits of these, and those inside them. smaller_than: only branches go whose share is below it, the length of a
    branch's kernel relative to that of the whole slow half's. caffe_proto: the schema of the fork that the nets are
    for. ignore_extra_weights: leave out weights of layers that no net has. state: the state whose cost is given and in
    which weights have to fit; what is not given is as `ChosenNet.state` says.
    """

    deploy: PathLike | None = None
    batch_norm: bool = False
    ungroup: bool = False
    layers: Sequence[str] | None = None
    smaller_than: float | None = None
    caffe_proto: Path | None = None
    ignore_extra_weights: bool = False
    state: NetState | AskedState = TESTED


@dataclass(frozen=True)
class FoldPlan:
    """All that folding will write into the new folder `out`; `str` gives it in words.

    net_path, deploy_path, weights_path: the files that are folded; caffe_proto: the schema of the fork that they are
    for. folded: the splits that become one convolution again. whole: how the folded weights fit those of the nets that
    have no splits, such as the deploy net of before. state: that in which the nets are compared. trimmed: the splits
    that lost some of their branches. kept: why a split stays, by its stem. norms: which BatchNorm and Scale layers went
    into which convolution; norms_kept: why those after a convolution stay. before, after: cost of the net. texts (file
    name -> bytes), weights (layer -> float32 blobs) and types (layer -> type): the folder's content.
    """

    net_path: Path
    deploy_path: Path | None
    weights_path: Path
    out: Path
    folded: tuple[FoldedLayer, ...]
    trimmed: tuple[TrimmedSplit, ...]
    kept: dict[str, str]
    norms: dict[str, tuple[str, ...]]
    norms_kept: dict[str, str]
    before: Cost
    after: Cost
    texts: dict[str, bytes]
    weights: dict[str, list[np.ndarray]]
    types: dict[str, str]
    caffe_proto: Path | None = None
    state: NetState = TEST
    whole: Mapping[Path, str] = field(default_factory=dict)

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
        lines += [f"  {split}" for split in self.trimmed]
        lines += [f"  {name}: {' and '.join(norms)} merged into it" for name, norms in self.norms.items()]
        lines += [f"  not folded: {name}: {reason}" for name, reason in self.kept.items()]
        lines += [f"  BatchNorm stays after {name}: {reason}" for name, reason in self.norms_kept.items()]
        lines += [f"  {path}: {fits}" for path, fits in self.whole.items()]
        lines += changes(self.before, self.after)
        return lines

    def as_dict(self) -> dict[str, Any]:
        """The plan as JSON has it."""
        return {
            "net": str(self.net_path),
            "deploy": None if self.deploy_path is None else str(self.deploy_path),
            "weights": str(self.weights_path),
            "folded": [vars(layer) for layer in self.folded],
            "trimmed": [vars(split) for split in self.trimmed],
            "kept": self.kept,
            "batch_norm": {name: list(norms) for name, norms in self.norms.items()},
            "batch_norm_kept": self.norms_kept,
            "whole": {str(path): fits for path, fits in self.whole.items()},
            "before": self.before.as_dict(),
            "after": self.after.as_dict(),
        }

    def __str__(self) -> str:
        return "\n".join(self.lines())

    def write(self, *, force: bool = False, check: VerifyOptions | None = DEFAULTS) -> list[Verification]:
        """Write the files into `out`: all of them or nothing; manifest.json last.

        Before the folder gets its name each folded net is forwarded beside its source as `check` says (its state and
        caffe_proto are the plan's); None leaves that out. `force` replaces a folder. Returns the comparisons, one per
        net that has splits.

        Raises:
            CaffeSplitError: a folded net differs by more than the tolerance, or the folder exists and not `force`.
        """
        with new_folder(self.out, force) as folder:
            for name, data in self.texts.items():
                write_atomic(folder / name, data)
            caffemodel.write_weights(folder / FOLDED_WEIGHTS_NAME, self.weights, types=self.types)
            compared = [source for source in self.sources if check is not None and source not in self.whole]
            results = [self._checked(source, folder, check or DEFAULTS) for source in compared]
            write_manifest(
                folder,
                (*self.sources, self.weights_path),
                (*self.texts, FOLDED_WEIGHTS_NAME),
                self.as_dict(),
                largest_difference=[result.worst for result in results],
            )
        return results

    def _checked(self, source: Path, folder: Path, check: VerifyOptions) -> Verification:
        """Compare a net with the folded one in a folder. Raises `CaffeSplitError` where they differ, or cannot run."""
        # Else it would be said below to leave the comparison out, where the state is what is lacking.
        check_bottoms(read_net(source, True, self.caffe_proto), self.state)
        try:
            result = verify(
                source,
                folder / source.name,
                baseline_weights=self.weights_path,
                derived_weights=folder / FOLDED_WEIGHTS_NAME,
                # The weights have been checked against all nets together.
                options=replace(check, caffe_proto=self.caffe_proto, state=self.state, ignore_extra=True),
            )
        except CaffeSplitError as error:
            raise CaffeSplitError(
                f"the folded net cannot be compared with its source: {error}\nNothing was written; `caffe-split fold "
                "--no-verify` writes it uncompared."
            ) from None
        # These blobs of both nets are not meant to be the same.
        changed = {blob for split in self.trimmed for blob in split.changed}
        result = replace(result, rows=tuple(row for row in result.rows if row.blob not in changed))
        if not result.passed:
            hint = _SMALL if result.worst <= _MOST_ROUNDING else _LARGE
            raise CaffeSplitError(
                f"{source}: folded, it would be another function: {result.reason()}. Nothing was written. {hint}"
            )
        return result


# The largest relative difference that is taken for rounding, and what to do about those below and above it.
_MOST_ROUNDING = 0.1
_SMALL = "If the weights are that badly conditioned, fold them with a larger tolerance: `caffe-split fold --tolerance`."
_LARGE = (
    "So large a difference is rounding only where branches cancel each other out; else it is a fault of `fold`, which "
    "a larger tolerance would hide."
)
NO_OPTIONS = FoldOptions()
_NO_SPLITS = "no split layers in it; give a net that make-derived wrote"
_NO_NORMS = "no split layers and no BatchNorm behind a convolution in it"


def fold(net: PathLike, weights: PathLike, *, out: PathLike, options: FoldOptions = NO_OPTIONS) -> FoldPlan:
    """Work out in memory what folding a net with its weights gives; nothing is written.

    `net` is its file, or a solver, of which the net is folded that it builds in the phase: in TEST the first that it
    tests, in TRAIN the one that it trains.

    Inner splits (of later rounds) are folded before outer ones. A split that cannot be folded stays whole, and the plan
    says why. TPM layers' state is left behind. `out` is the folder that `FoldPlan.write` makes.

    Raises:
        CaffeSplitError: weights do not fit the net, BatchNorm would go out of a net to train, or nothing can be folded.

    >>> import numpy as np, os, tempfile
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, weights = os.path.join(folder, "net.prototxt"), os.path.join(folder, "w.caffemodel")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 1 dim: 3 dim: 8 dim: 8 } } }
    ... layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
    ...         convolution_param { num_output: 4 kernel_size: 3 pad: 1 } }''')
    >>> cs.write_weights(weights, {"conv": [np.random.default_rng(0).normal(size=(4, 3, 3, 3)), np.zeros(4)]})
    >>> training, derived = cs.open_training(net), os.path.join(folder, "derived")
    >>> options = cs.DeriveOptions(partition="list:0,1")
    >>> cs.derive(training, weights=weights, layers=["conv"], options=options, out=derived).write()
    >>> plan = cs.fold(f"{derived}/net.prototxt", f"{derived}/init.caffemodel", out=os.path.join(folder, "folded"))
    >>> [(layer.name, layer.layers) for layer in plan.folded]
    [('conv', 7)]
    >>> plan.texts["net.prototxt"] == open(net, "rb").read()
    True
    """
    expect_path(net, "a net")
    expect_path(weights, "weights")
    weights_path, out = Path(weights), Path(out)
    deploy, caffe_proto = None if options.deploy is None else Path(options.deploy), options.caffe_proto
    chosen = choose_net(net, options.state.phase, caffe_proto)
    net_path, document = chosen.need_file(), chosen.document
    state = chosen.state(options.state).in_net(document)
    if deploy is not None and deploy.name == net_path.name:
        raise CaffeSplitError(f"{net_path} and {deploy} would both be written as {out / deploy.name}; rename one.")
    documents = [document] if deploy is None else [document, read_net(deploy, True, caffe_proto)]
    for each in documents:
        check_bottoms(each, state, known=False)
    splits = [bool(all_splits(all_layers(each))) for each in documents]
    blobs = _weights_of(documents, splits, weights_path, state, options.ignore_extra_weights)
    before = Cost.of(infer_shapes(phase_layers(document, state)))
    given_texts = [each.to_bytes() for each in documents]
    folded, kept, blobs, trimmed = merge_stems(
        documents, blobs, options.ungroup, layers=options.layers, smaller_than=options.smaller_than
    )
    norms: dict[str, tuple[str, ...]] = {}
    norms_kept: dict[str, str] = {}
    if options.batch_norm:
        for each in documents:
            check_not_trained(each)
        norms, norms_kept = merge_batch_norms(documents, blobs)
    if not folded and not trimmed and not norms:
        reasons = "; ".join(f"{name}: {reason}" for name, reason in {**kept, **norms_kept}.items())
        none = _NO_NORMS if options.batch_norm else _NO_SPLITS
        raise CaffeSplitError(f"{net_path}: nothing to fold: {reasons or none}.")
    whole = {}
    for each, text, has_splits in zip(documents, given_texts, splits):
        if any(splits) and not has_splits:
            _check_fits(each, blobs, {**kept, **{split.name: "branches of it stay" for split in trimmed}}, state)
            as_it_is = "as it is" if each.to_bytes() == text else "with the bias or group that changes"
            whole[Path(each.filename)] = f"no split in it; {FOLDED_WEIGHTS_NAME} fits it {as_it_is}"
    return FoldPlan(
        net_path=net_path,
        deploy_path=deploy,
        weights_path=weights_path,
        out=out,
        folded=tuple(folded),
        trimmed=tuple(trimmed),
        kept=kept,
        norms=norms,
        norms_kept=norms_kept,
        before=before,
        after=Cost.of(infer_shapes(phase_layers(document, state))),
        texts={Path(each.filename).name: _text_of(each, text) for each, text in zip(documents, given_texts)},
        weights=blobs,
        types={layer.name: layer.type for layer in all_layers(document)},
        caffe_proto=caffe_proto,
        state=state,
        whole=whole,
    )


def _text_of(document: prototxt.Document, before: bytes) -> bytes:
    """The text of a folded net; of one in which nothing was folded its file's, also where that has an old form."""
    now = document.to_bytes()
    return Path(document.filename).read_bytes() if now == before else now


def _weights_of(
    documents: Sequence[prototxt.Document], splits: Sequence[bool], path: Path, state: NetState, ignore_extra: bool
) -> dict[str, list[np.ndarray]]:
    """The weights of a file that belong to the nets, without TPM layers' state.

    Those with splits (all, where none has any) have to find all their weights there. Raises `CaffeSplitError` where
    weights do not fit, and for weights of layers that no net has in any phase, unless `ignore_extra`.
    """
    read = caffemodel.read_weights(path)
    known = [{layer.name for layer in all_layers(each)} for each in documents]
    for document, names, has_splits in zip(documents, known, splits):
        if has_splits or not any(splits):
            elsewhere = set().union(*known) - names
            check_weights(
                document,
                {name: read[name] for name in read if name not in elsewhere},
                path,
                state,
                ignore_extra=ignore_extra,
            )
    blobs = {name: list(read[name]) for name in read if any(name in names for names in known)}
    blobs = {name: found for name, found in blobs.items() if found and not is_state(found)}
    settle_shared(documents, blobs, state)
    return blobs


def _check_fits(
    document: prototxt.Document, blobs: dict[str, list[np.ndarray]], kept: dict[str, str], state: NetState
) -> None:
    """Raises `CaffeSplitError` where a net without splits does not go with the folded weights."""
    for layer in all_layers(document):
        if layer.name in kept:
            raise CaffeSplitError(
                f"{document.filename}: it has no split in it, but '{layer.name}' stays split: {kept[layer.name]}. Give "
                "the deploy net that make-derived wrote."
            )
    check_weights(document, blobs, Path(FOLDED_WEIGHTS_NAME), state, ignore_extra=True)
