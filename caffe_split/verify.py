"""Does a derived net compute its baseline's function?"""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_split.caffe import forward, opencv
from caffe_split.caffe.forward import BlobDifference
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
    input_file: Path | None = None,
    engine: str | None = None,
) -> Verification:
    """Forward both nets on the same input and compare them.

    `engine` is 'caffe', or 'opencv' for deploy nets in OpenCV's reader; by default the built Caffe where there is
    one. `input_file` is an .npy array (N, C, H, W) for nets with one input; without it data layers read their
    data sets, and inputs get Gaussian noise.

    Without `derived_weights` the init.caffemodel beside `derived` serves; without `baseline_weights` the ones from
    which, as the manifest beside `derived` says, it was made. Raises `CaffeSplitError` for weights and a net that
    name different layers, and when the nets share no output.
    """
    documents = [read_net(net, upgrade=True, caffe_proto=caffe_proto) for net in (baseline, derived)]
    weights = derived_weights or derived.parent / WEIGHTS_NAME
    original = baseline_weights or _recorded_weights(derived)
    for document, path in zip(documents, (original, weights)):
        check_weights(document, caffemodel.read_weights(path), path)
    pairs = (baseline, original), (derived, weights)
    if (engine or default_engine()) == "caffe":
        rows = forward.compare_nets(*pairs, batches, phase, seed, input_file)
    else:
        if phase != "TEST":
            raise CaffeSplitError("OpenCV runs the TEST phase only; --phase TRAIN needs the built Caffe.")
        rows = opencv.compare_nets(*pairs, batches, seed, input_file)
    result = Verification(tuple(rows), tolerance)
    if not result.outputs:
        raise CaffeSplitError(f"{baseline} and {derived} share no output blob; there is nothing to compare.")
    return result


def default_engine() -> str:
    """'caffe' where pycaffe is installed, else 'opencv'. Raises `CaffeSplitError` where neither is."""
    for module, engine in (("caffe", "caffe"), ("cv2", "opencv")):
        if importlib.util.find_spec(module) is not None:
            return engine
    raise CaffeSplitError(
        "nets are run in pycaffe, which is not installed here: build it with ./tools/build_caffe. Deploy nets also run "
        "in OpenCV: pip install 'opencv-python-headless<5'."
    )


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
