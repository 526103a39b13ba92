"""Does a derived net compute its baseline's function?"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_split.caffe.forward import BlobDifference, compare_nets
from caffe_split.errors import CaffeSplitError
from caffe_split.fit import WEIGHTS_NAME, check_weights
from caffe_split.proto import caffemodel
from caffe_split.proto.nets import read_net


@dataclass(frozen=True)
class Verification:
    """The largest difference at every shared blob, and whether all lie within `tolerance` (relative).

    All blobs count, not only the outputs: a loss is a mean, and hides what its bottoms show.
    """

    rows: tuple[BlobDifference, ...]
    tolerance: float

    @property
    def outputs(self) -> list[BlobDifference]:
        return [row for row in self.rows if row.is_output]

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
) -> Verification:
    """Forward both nets on the same input in the built Caffe and compare them.

    Without `derived_weights` the init.caffemodel beside `derived` serves; without `baseline_weights` the ones from
    which, as the manifest beside `derived` says, it was made. Raises `CaffeSplitError` for weights and a net that
    name different layers, and when the nets share no output.
    """
    documents = [read_net(net, upgrade=True, caffe_proto=caffe_proto) for net in (baseline, derived)]
    weights = derived_weights or derived.parent / WEIGHTS_NAME
    original = baseline_weights or _recorded_weights(derived)
    for document, path in zip(documents, (original, weights)):
        check_weights(document, caffemodel.read_weights(path), path)
    rows = compare_nets((baseline, original), (derived, weights), batches, phase, seed)
    result = Verification(tuple(rows), tolerance)
    if not result.outputs:
        raise CaffeSplitError(f"{baseline} and {derived} share no output blob; there is nothing to compare.")
    return result


def _recorded_weights(derived: Path) -> Path:
    manifest = derived.parent / "manifest.json"
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
