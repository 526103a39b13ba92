"""Does a derived net compute its baseline's function?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_split.backends import opencv
from caffe_split.backends.caffe import forward
from caffe_split.backends.caffe.forward import BlobDifference
from caffe_split.backends.check_weights import WEIGHTS_NAME, check_weights
from caffe_split.backends.choose import ENGINES, choose_engine
from caffe_split.engine import require_torch
from caffe_split.errors import CaffeSplitError
from caffe_split.files import MANIFEST
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights import caffemodel
from caffe_split.net.layers import all_layers, phase_layers
from caffe_split.split.recognise import all_splits


@dataclass(frozen=True)
class Verification:
    """The largest difference at every shared blob and every output, and whether all lie within `tolerance` (relative).

    All blobs count, not only the outputs: a loss is a mean, and hides what its bottoms show. `engine` is what ran the
    nets.
    """

    rows: tuple[BlobDifference, ...]
    tolerance: float
    engine: str = "caffe"

    def verdict(self) -> str:
        """The result in a line."""
        said = "same function" if self.passed else "NOT the same function"
        return (
            f"{said}: largest relative difference {self.worst:.3e}, tolerance {self.tolerance:g}, "
            f"run in {ENGINES[self.engine][1]}"
        )

    @property
    def worst(self) -> float:
        """The largest relative difference of any shared blob."""
        return max(row.relative for row in self.rows)

    @property
    def passed(self) -> bool:
        return self.worst <= self.tolerance


def verify(
    baseline: Path,
    derived: Path,
    baseline_weights: Path | None = None,
    derived_weights: Path | None = None,
    batches: int = 1,
    phase: str = "TEST",
    seed: int = 0,
    tolerance: float = 1e-4,
    caffe_proto: Path | None = None,
    input_file: Path | None = None,
    engine: str | None = None,
    stages: Sequence[str] = (),
    level: int = 0,
    ignore_extra: bool = False,
) -> Verification:
    """Forward both nets on the same input and compare them.

    `engine` is 'caffe', 'torch' for our own on PyTorch, or 'opencv' for deploy nets in OpenCV's reader; by default the
    first of these that is installed. `input_file` is an .npy array (N, C, H, W) for nets with one input; without it
    data layers read their data sets, and inputs get Gaussian noise. `stages` and `level` are those of the nets' state
    in `phase`. With `ignore_extra` weights of layers that a net does not have are left out, as Caffe leaves them out.

    Without `derived_weights` the init.caffemodel beside `derived` serves; without `baseline_weights` the ones from
    which, as the manifest beside `derived` says, it was made. Raises `CaffeSplitError` for weights and a net that
    name different layers, when the nets share no blob, and when no split layer is in the nets as they are run.
    """
    documents = [read_net(net, upgrade=True, caffe_proto=caffe_proto) for net in (baseline, derived)]
    weights = derived_weights or derived.parent / WEIGHTS_NAME
    original = baseline_weights or _recorded_weights(derived)
    for document, path in zip(documents, (original, weights)):
        check_weights(document, caffemodel.read_weights(path), path, phase, stages, level, ignore_extra)
    _check_splits_run(documents[1], phase, stages, level)
    pairs = (baseline, original), (derived, weights)
    engine = engine or choose_engine(("caffe", "torch", "opencv"))
    if engine == "caffe":
        rows = forward.compare_nets(*pairs, batches, phase, seed, input_file, stages, level)
    elif engine == "torch":
        require_torch()
        from caffe_split.backends.torch import compare_nets

        rows = compare_nets(*pairs, batches, phase, seed, input_file, stages, level)
    else:
        if phase != "TEST":
            raise CaffeSplitError("OpenCV runs the TEST phase only; --phase TRAIN needs the built Caffe, or PyTorch.")
        rows = opencv.compare_nets(*pairs, batches, seed, input_file, stages, level)
    if not rows:
        raise CaffeSplitError(f"{baseline} and {derived} share no blob; there is nothing to compare.")
    return Verification(tuple(rows), tolerance, engine)


def _check_splits_run(derived: prototxt.Document, phase: str, stages: Sequence[str], level: int) -> None:
    """Raises `CaffeSplitError` where the derived net is run without a single one of its splits."""
    layers = all_layers(derived)
    splits = {layers[split.reorder].name for split in all_splits(layers)}
    run = {layer.name for layer in phase_layers(derived, phase, stages, level)}
    if splits and not splits & run:
        raise CaffeSplitError(
            f"{derived.filename}: none of its splits is in the net of the {phase} phase with "
            f"{'stages ' + ', '.join(stages) if stages else 'no stages'} and level {level}; nothing would be shown. "
            "Give the right --phase, --stage or --level."
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
    """A line a blob: name, largest absolute and relative difference, outputs marked."""
    width = max(len(row.blob) for row in rows)
    return [
        f"{row.blob:<{width}}  {row.largest:.3e}  relative {row.relative:.3e}{'  output' if row.is_output else ''}"
        for row in rows
    ]
