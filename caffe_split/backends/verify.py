"""Does a derived net compute its baseline's function?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_split.backends.check_data import check_data
from caffe_split.backends.check_weights import FOLDED_WEIGHTS_NAME, WEIGHTS_NAME, check_weights
from caffe_split.backends.choose import choose_backend, get_backend
from caffe_split.backends.compare import ROUNDINGS, BlobDifference, compare_nets
from caffe_split.backends.inputs import drawn_input, write_inputs
from caffe_split.backends.offsets import offsets
from caffe_split.backends.protocol import Forwarding, NetFiles
from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.files import MANIFEST, PathLike, scratch
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.layertypes.table import record_for
from caffe_split.net.bottoms import check_bottoms
from caffe_split.net.chosen import ChosenNet, choose_net
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import TESTED, AskedState, NetState
from caffe_split.split.recognise import all_splits


@dataclass(frozen=True)
class VerifyOptions:
    """How two nets are compared.

    batches, seed, input_file: how both are forwarded, see `Forwarding`. state: that of both nets; what is not given is
    as `ChosenNet.state` says of the derived net, or of the baseline if Caffe cannot build the derived net so.
    tolerance: the largest difference of a blob that passes, relative to the blob's largest value. engine:
    the name of a back end, by default the first that is installed. ignore_extra: leave out weights of layers that a net
    does not have, as Caffe does. caffe_proto: the schema of the fork that the nets are for.
    """

    batches: int = 1
    state: NetState | AskedState = TESTED
    seed: int = 0
    tolerance: float = 1e-4
    input_file: Path | None = None
    engine: str | None = None
    ignore_extra: bool = False
    caffe_proto: Path | None = None


@dataclass(frozen=True)
class Verification:
    """The difference at every shared blob and every output, and whether all of them pass.

    `rows` has a `BlobDifference` for each.
    All blobs count, not only the outputs: a loss is a mean, and hides what its bottoms show. A blob may differ by
    `tolerance` (relative), or by `ROUNDINGS` times what one rounding of the input alone does to it, which is measured
    only where a blob is past the tolerance. `engine` names the back end that ran the nets.
    """

    rows: tuple[BlobDifference, ...]
    tolerance: float
    engine: str = "caffe"

    def verdict(self) -> str:
        """The result in one line."""
        where = f"run in {get_backend(self.engine).title}"
        past = [row for row in self.rows if not row.relative <= self.tolerance]
        if not past:
            return f"same function: largest relative difference {self.worst:.3e}, tolerance {self.tolerance:g}, {where}"
        failed = self._failed()
        if failed is not None:
            shown = "NOT shown to be the same function" if failed.is_rounding else "NOT the same function"
            return f"{shown}: {self.reason()}, {where}"
        worst = max(past, key=lambda row: row.relative)
        return (
            f"same function, to rounding: blob '{worst.blob}' differs by {worst.relative:.3e}, tolerance "
            f"{self.tolerance:g}{_rounding(worst)}; {len(past)} of {len(self.rows)} blobs are past the tolerance, none "
            f"by more than {ROUNDINGS} times its rounding, {where}"
        )

    def reason(self) -> str:
        """Why they do not pass, as a clause: the first blob that cannot be compared, or else that does not pass."""
        row = self._failed()
        if row is None:
            return ""
        if row.why:
            return f"blob '{row.blob}' cannot be compared ({row.why})"
        said = f"blob '{row.blob}', the first, differs by {row.relative:.3e} (relative), tolerance {self.tolerance:g}"
        if row.is_rounding:
            return f"{said}{_rounding(row)}: the net multiplies any difference, and nothing can be shown from there on"
        return said + _rounding(row)

    def _failed(self) -> BlobDifference | None:
        """The blob that says why the nets do not pass, None where they do."""
        incomparable = (row for row in self.rows if row.why)
        failed = (row for row in self.rows if not row.passes(self.tolerance))
        return next(incomparable, next(failed, None))

    @property
    def worst(self) -> float:
        """The largest relative difference of any shared blob."""
        return max(row.relative for row in self.rows)

    @property
    def passed(self) -> bool:
        """Whether every blob passes."""
        return all(row.passes(self.tolerance) for row in self.rows)


def _rounding(row: BlobDifference) -> str:
    """How a difference stands to rounding, as the end of a sentence; '' where that was not measured."""
    if row.rounding is None or row.times is None:
        return ""
    return f", {row.times:.2g} times what one rounding of the input alone does to it ({row.rounding:.3e})"


DEFAULTS = VerifyOptions()


def verify(
    baseline: PathLike,
    derived: PathLike,
    *,
    baseline_weights: PathLike | None = None,
    derived_weights: PathLike | None = None,
    options: VerifyOptions = DEFAULTS,
) -> Verification:
    """Forward two nets (or those of two solvers) on the same input and compare their blobs.

    `baseline` and `derived` are files; each may be a solver, which also says the net's stages. `options` say how they
    are compared; see `VerifyOptions`. Without `derived_weights` the folded.caffemodel or init.caffemodel beside the
    derived net serves; without `baseline_weights` those that the manifest beside it names as the ones it was made from.

    Raises:
        CaffeSplitError: weights and a net name different layers, the nets share no blob that they compute, none of the
            derived net's splits is in the net that would run, or the back end is not here or cannot run the nets.

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
    >>> result = cs.verify(net, f"{derived}/net.prototxt")
    >>> result.passed, [row.blob for row in result.rows]
    (True, ['data', 'conv'])
    """
    expect_path(baseline, "a net")
    expect_path(derived, "a net")
    phase, caffe_proto = options.state.phase, options.caffe_proto
    nets = choose_net(baseline, phase, caffe_proto), choose_net(derived, phase, caffe_proto)
    state = _state_of(nets, options)
    documents = nets[0].document, nets[1].document
    paths = (
        Path(baseline_weights or _recorded(nets[1].path, "weights")),
        Path(derived_weights or _weights_beside(nets[1].path.parent)),
    )
    weights = []
    for document, path in zip(documents, paths):
        check_bottoms(document, state)
        weights.append(caffemodel.read_weights(path))
        try:
            check_weights(document, weights[-1], path, state, ignore_extra=options.ignore_extra)
        except CaffeSplitError:
            if baseline_weights is None and document is documents[0]:
                _check_made_from(nets, path)
            raise
    _check_splits_run(documents[1], state)
    for document in documents:
        check_data([(document, state)])
    backend = choose_backend(options.engine, deploy_only=True)
    constants = offsets((documents[0], weights[0]), (documents[1], weights[1]), state)
    losses = {top for layer in phase_layers(documents[0], state) if record_for(layer).is_loss for top in layer.tops}
    with ExitStack() as stack:
        shapes, input_file = {}, options.input_file
        if input_file is None:
            shapes = _input_shapes(documents, state)
            input_file = _drawn(documents[0], state, options.seed, stack)
        how = Forwarding(options.batches, state, options.seed, input_file, shapes)
        first, second = (NetFiles(stack.enter_context(net.as_file()), path) for net, path in zip(nets, paths))
        rows = compare_nets(backend, first, second, how, options.tolerance, constants=constants, losses=losses)
    _check_something_shown(rows, documents, state)
    return Verification(tuple(rows), options.tolerance, backend.name)


def _state_of(nets: tuple[ChosenNet, ChosenNet], options: VerifyOptions) -> NetState:
    """The state of both nets: the derived net's, or the baseline's where Caffe cannot build the derived net in that.

    Beside a folded net there is no solver that says the stages.
    """
    baseline, derived = nets
    state = derived.state(options.state)
    if not derived.is_built(state):
        other = baseline.state(options.state)
        state = other if derived.is_built(other) else state
    return state.in_net(derived.document)


def _weights_beside(folder: Path) -> Path:
    """The weights that were written into a folder beside its net: those of a fold, or else of a derivation."""
    folded = folder / FOLDED_WEIGHTS_NAME
    return folded if folded.is_file() else folder / WEIGHTS_NAME


def _input_shapes(documents: Sequence[prototxt.Document], state: NetState) -> dict[str, tuple[int, ...]]:
    """The shapes of the baseline's inputs, which both nets are given: deploy nets often differ in their batch.

    Raises `CaffeSplitError` where an input of that name has another shape in the derived net, the batch aside.
    """
    ours, theirs = (
        {
            top: shape
            for layer in phase_layers(document, state)
            if layer.type == "Input"
            for top in layer.tops
            if (shape := infer_shapes([layer]).blobs.get(top))
        }
        for document in documents
    )
    for name in ours.keys() & theirs.keys():
        if ours[name][1:] != theirs[name][1:]:
            raise CaffeSplitError(
                f"input '{name}' has shape {ours[name]} in {documents[0].filename} and {theirs[name]} in "
                f"{documents[1].filename}. Make them equal, or give both nets the same array: `caffe-split verify "
                "--input FILE.npy`."
            )
    changed = {name for name in ours.keys() & theirs.keys() if ours[name] != theirs[name]}
    return {name: ours[name] for name in sorted(changed)}


def _drawn(document: prototxt.Document, state: NetState, seed: int, stack: ExitStack) -> Path | None:
    """A file with all inputs of the baseline where a layer does not take any numbers; else the back ends draw noise."""
    layers = phase_layers(document, state)
    rng, shapes = np.random.default_rng(seed), infer_shapes(layers).blobs
    names = [top for layer in layers if layer.type == "Input" for top in layer.tops if top in shapes]
    drawn = {name: drawn_input(layers, name, shapes, rng) for name in names}
    if all(values is None for values in drawn.values()):
        return None
    path = stack.enter_context(scratch()) / "inputs.npz"
    noise = {name: rng.standard_normal(shapes[name]).astype(np.float32) for name in names}
    write_inputs(path, {name: noise[name] if values is None else values for name, values in drawn.items()})
    return path


def _check_something_shown(
    rows: Sequence[BlobDifference], documents: Sequence[prototxt.Document], state: NetState
) -> None:
    """Raises `CaffeSplitError` where no blob that the nets compute is among those compared, or all of them are 0."""
    names = " and ".join(document.filename for document in documents)
    given = {top for layer in phase_layers(documents[0], state) if not layer.bottoms for top in layer.tops}
    computed = [row for row in rows if row.blob not in given]
    if not computed:
        shared = f"only {', '.join(row.blob for row in rows)}, which they are given" if rows else "no blob"
        raise CaffeSplitError(f"{names} share {shared}; there is nothing to compare.")
    if all(row.scale == 0 and row.largest == 0 for row in computed):
        raise CaffeSplitError(
            f"{names}: all {len(computed)} blobs that they compute are 0, which shows nothing. Give other data or "
            "weights."
        )


def _check_splits_run(derived: prototxt.Document, state: NetState) -> None:
    """Raises `CaffeSplitError` where the derived net is run without a single one of its splits."""
    layers = all_layers(derived)
    splits = {layers[split.last].name for split in all_splits(layers)}
    run = {layer.name for layer in phase_layers(derived, state)}
    if splits and not splits & run:
        raise CaffeSplitError(
            f"{derived.filename}: none of its splits is in the net of {state.words}; nothing would be "
            "shown. Give the phase, the stages and the level in which they are."
        )


def _check_made_from(nets: tuple[ChosenNet, ChosenNet], weights: Path) -> None:
    """Raises `CaffeSplitError` where the derived net was made from another net than the baseline.

    A folded net is made from the split one, not from the one before the splits; their weights fit nothing else.
    """
    baseline, derived = nets
    source = _recorded(derived.path, "net")
    if source.resolve() != baseline.path.resolve():
        raise CaffeSplitError(
            f"{weights}: from these weights and {source} {derived.path} was made; they do not fit {baseline.path}, "
            f"which is another net. Give {source} as the BASELINE, or --baseline-weights FILE."
        )


def _recorded(derived: Path, what: str) -> Path:
    """The `net` or the `weights` that a derived net was made from, as the manifest beside it has it."""
    manifest = derived.parent / MANIFEST
    if not manifest.exists():
        raise CaffeSplitError(
            f"{derived}: no {MANIFEST} beside it, so make-derived or fold did not write it. Is it the BASELINE? The "
            "derived net is the second argument. Else give --baseline-weights FILE."
        )
    try:
        return Path(json.loads(manifest.read_text(encoding="utf-8"))["plan"][what])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaffeSplitError(
            f"{manifest}: it does not say from which {what} {derived} was made; give --baseline-weights FILE."
        ) from error


def table(rows: Sequence[BlobDifference]) -> list[str]:
    """One line per blob: name, largest absolute and relative difference, outputs marked."""
    width = max(len(row.blob) for row in rows)
    return [f"{row.blob:<{width}}  {row.largest:.3e}  relative {row.relative:.3e}{_remarks(row)}" for row in rows]


def _remarks(row: BlobDifference) -> str:
    said = "" if row.rounding is None else f"  rounding alone {row.rounding:.3e}"
    said += "  output" if row.is_output else ""
    said += f"  ({row.why})" if row.why else ""
    return f"{said}  (without the constant that '{row.taken_by}' takes off)" if row.taken_by else said
