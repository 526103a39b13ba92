"""Does a derived net compute its baseline's function?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_split.backends.check_data import check_data
from caffe_split.backends.check_weights import WEIGHTS_NAME, check_weights
from caffe_split.backends.choose import choose_backend, get_backend
from caffe_split.backends.compare import BlobDifference, compare_nets
from caffe_split.backends.protocol import Forwarding, NetFiles
from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.files import MANIFEST, PathLike
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights import caffemodel
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.net.state import TEST, NetState
from caffe_split.split.recognise import all_splits


@dataclass(frozen=True)
class VerifyOptions:
    """How two nets are compared.

    batches, state, seed, input_file: how both are forwarded, see `Forwarding`. tolerance: the largest difference of a
    blob that passes, relative to the blob's largest value. engine: the name of a back end, by default the first that is
    installed. ignore_extra: leave out weights of layers that a net does not have, as Caffe does. caffe_proto: the
    schema of the fork that the nets are for.
    """

    batches: int = 1
    state: NetState = TEST
    seed: int = 0
    tolerance: float = 1e-4
    input_file: Path | None = None
    engine: str | None = None
    ignore_extra: bool = False
    caffe_proto: Path | None = None


@dataclass(frozen=True)
class Verification:
    """The largest difference at every shared blob and every output, and whether all lie within `tolerance` (relative).

    All blobs count, not only the outputs: a loss is a mean, and hides what its bottoms show. `engine` names the back
    end that ran the nets.
    """

    rows: tuple[BlobDifference, ...]
    tolerance: float
    engine: str = "caffe"

    def verdict(self) -> str:
        """The result in one line."""
        said = "same function" if self.passed else "NOT the same function"
        return (
            f"{said}: largest relative difference {self.worst:.3e}, tolerance {self.tolerance:g}, "
            f"run in {get_backend(self.engine).title}"
        )

    @property
    def worst(self) -> float:
        """The largest relative difference of any shared blob."""
        return max(row.relative for row in self.rows)

    @property
    def passed(self) -> bool:
        """Whether every blob differs by at most the tolerance."""
        return self.worst <= self.tolerance


DEFAULTS = VerifyOptions()


def verify(
    baseline: PathLike,
    derived: PathLike,
    *,
    baseline_weights: PathLike | None = None,
    derived_weights: PathLike | None = None,
    options: VerifyOptions = DEFAULTS,
) -> Verification:
    """Forward the nets of two prototxt files on the same input and compare their blobs.

    Without `derived_weights` the init.caffemodel beside `derived` serves; without `baseline_weights` those that the
    manifest beside `derived` names as the ones it was made from.

    Raises:
        CaffeSplitError: weights and a net name different layers, the nets share no blob, none of the derived net's
            splits is in the net that would run, or the back end is not here or cannot run the nets.

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
    baseline, derived = Path(baseline), Path(derived)
    documents = [read_net(net, upgrade=True, caffe_proto=options.caffe_proto) for net in (baseline, derived)]
    first = NetFiles(baseline, Path(baseline_weights or _recorded_weights(derived)))
    second = NetFiles(derived, Path(derived_weights or derived.parent / WEIGHTS_NAME))
    for document, (_, path) in zip(documents, (first, second)):
        weights = caffemodel.read_weights(path)
        check_weights(document, weights, path, options.state, ignore_extra=options.ignore_extra)
    _check_splits_run(documents[1], options.state)
    for document in documents:
        check_data([(document, options.state)])
    backend = choose_backend(options.engine, deploy_only=True)
    how = Forwarding(options.batches, options.state, options.seed, options.input_file)
    rows = compare_nets(backend, first, second, how)
    if not rows:
        raise CaffeSplitError(f"{baseline} and {derived} share no blob; there is nothing to compare.")
    return Verification(tuple(rows), options.tolerance, backend.name)


def _check_splits_run(derived: prototxt.Document, state: NetState) -> None:
    """Raises `CaffeSplitError` where the derived net is run without a single one of its splits."""
    layers = all_layers(derived)
    splits = {layers[split.last].name for split in all_splits(layers)}
    run = {layer.name for layer in phase_layers(derived, state)}
    if splits and not splits & run:
        stages = "stages " + ", ".join(state.stages) if state.stages else "no stages"
        raise CaffeSplitError(
            f"{derived.filename}: none of its splits is in the net of the {state.phase} phase with {stages} and level "
            f"{state.level}; nothing would be shown. Give the right --phase, --stage or --level."
        )


def _recorded_weights(derived: Path) -> Path:
    manifest = derived.parent / MANIFEST
    try:
        return Path(json.loads(manifest.read_text(encoding="utf-8"))["plan"]["weights"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise CaffeSplitError(
            f"{manifest}: it does not say from which weights {derived} was made; give --baseline-weights FILE."
        ) from error


def table(rows: Sequence[BlobDifference]) -> list[str]:
    """One line per blob: name, largest absolute and relative difference, outputs marked."""
    width = max(len(row.blob) for row in rows)
    return [
        f"{row.blob:<{width}}  {row.largest:.3e}  relative {row.relative:.3e}{'  output' if row.is_output else ''}"
        for row in rows
    ]
