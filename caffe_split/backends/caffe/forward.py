"""Run two nets on the same input in the built Caffe and compare them, blob by blob.

Run as a program it is the child of `compare_nets`; see `child.py`.
"""

from __future__ import annotations

import json
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.backends.caffe.child import open_net, run_job
from caffe_split.errors import CaffeSplitError
from caffe_split.net.state import TEST, NetState


@dataclass(frozen=True)
class BlobDifference:
    """How far a blob that both nets have differs over all batches.

    `largest` is the largest absolute difference, `scale` the largest absolute value in the first net.
    """

    blob: str
    is_output: bool
    largest: float
    scale: float

    @property
    def relative(self) -> float:
        """The largest difference against the blob's largest value; infinite where it is not a number."""
        if not np.isfinite(self.largest):
            return float("inf")
        return self.largest / self.scale if self.scale else self.largest


def compare_nets(
    first: tuple[Path, Path],
    second: tuple[Path, Path],
    batches: int = 1,
    state: NetState = TEST,
    seed: int = 0,
    input_file: Path | None = None,
) -> list[BlobDifference]:
    """Forward two (net, weights) pairs on the same input and compare all blobs that both have.

    Data layers read their own data set from its start, so both see the same batches; Input layers get the same
    Gaussian noise, or the array of `input_file` (.npy, NCHW). Caffe's random numbers (dropout, mirroring, fillers of
    data) start from `seed` in both. Blobs come in the first net's order; one that is an output of one net alone is
    there with an infinite difference. Raises `CaffeSplitError` with Caffe's own last words.
    """
    if input_file is not None:
        load_input(input_file)  # so that a bad file is an error here, not in the child
    job = {
        "nets": [[str(path) for path in first], [str(path) for path in second]],
        "batches": batches,
        "seed": seed,
        "state": asdict(state),
        "input": None if input_file is None else str(input_file),
    }
    return [BlobDifference(**row) for row in run_job("caffe_split.backends.caffe.forward", job)]


# A net's outputs and, for each batch, blob -> values.
Forwarded = tuple[list[str], list[dict[str, np.ndarray]]]


def compare_blobs(first: Forwarded, second: Forwarded) -> list[BlobDifference]:
    """The difference at each blob that both nets have, and at outputs that one of them lacks.

    What was forwarded is a net's outputs and, for each batch, blob -> values.
    """
    (outputs, ours), (their_outputs, theirs) = first, second
    rows = []
    for name in ours[0]:
        if name not in theirs[0]:
            if name in outputs:
                rows.append(BlobDifference(name, True, float("inf"), 0.0))
            continue
        pairs = [(a[name].astype(np.float64), b[name].astype(np.float64)) for a, b in zip(ours, theirs)]
        if any(a.shape != b.shape for a, b in pairs):
            largest = float("inf")
        else:
            largest = max(float(np.abs(a - b).max(initial=0)) for a, b in pairs)
        scale = max(float(np.abs(a).max(initial=0)) for a, _ in pairs)
        rows.append(BlobDifference(name, name in outputs, largest, scale))
    lacking = [name for name in their_outputs if name not in ours[0]]
    return rows + [BlobDifference(name, True, float("inf"), 0.0) for name in lacking]


def load_input(path: Path) -> np.ndarray:
    """An .npy file's array as float32. Raises `CaffeSplitError` for what is not one of numbers."""
    try:
        values = np.load(path, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{path}: not an array that numpy.save wrote: {error}") from error
    if not isinstance(values, np.ndarray) or values.dtype.kind not in "fiub" or values.ndim == 0 or not values.size:
        raise CaffeSplitError(f"{path}: it holds no array of numbers; expected one of shape (N, C, H, W).")
    return np.asarray(values, np.float32)


def _forward(job: dict[str, Any], path: str, weights: str) -> Forwarded:
    import caffe

    seed, input_file = job["seed"], job["input"]
    caffe.set_random_seed(seed)
    net = open_net(path, weights, job["state"])
    # Once more: the nets' fillers have drawn different numbers.
    caffe.set_random_seed(seed)
    rng = np.random.default_rng(seed)
    runs = []
    # What a TPM layer says of the past is no part of the function; Split layers are Caffe's own copies.
    ignored = {
        top
        for name, layer in zip(net._layer_names, net.layers)
        if layer.type in ("TPM", "Split")
        for top in net.top_names[name]
    }
    if input_file is not None:
        if len(net.inputs) != 1:
            sys.exit(f"{path}: it has {len(net.inputs)} inputs; --input serves deploy nets of one.")
        given = load_input(Path(input_file))
        net.blobs[net.inputs[0]].reshape(*given.shape)
        net.reshape()
    for _ in range(job["batches"]):
        for name in net.inputs:
            blob = net.blobs[name].data
            blob[...] = given if input_file is not None else rng.standard_normal(blob.shape)
        net.forward()
        runs.append({name: blob.data.copy() for name, blob in net.blobs.items() if name not in ignored})
    return [name for name in net.outputs if name not in ignored], runs


def main() -> None:
    """The child: a job as JSON in the first argument, rows as JSON on the last line of standard output."""
    job = json.loads(sys.argv[1])
    first, second = (_forward(job, *net) for net in job["nets"])
    print(json.dumps([asdict(row) for row in compare_blobs(first, second)]))


if __name__ == "__main__":
    main()
