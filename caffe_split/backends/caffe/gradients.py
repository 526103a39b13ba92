"""Mean gradients of the loss over a net's own training data, computed in the built Caffe.

Run as a program it is the child of `mean_gradients`; see `child.py`. The gradients come back in one raw file, which
the parent maps into memory.
"""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.backends.caffe.child import open_net, run_job
from caffe_split.files import open_new, scratch
from caffe_split.net.state import NetState


def mean_gradients(
    net: Path, weights: Sequence[Path], layers: Sequence[str], batches: int, state: NetState
) -> list[dict[str, np.ndarray]]:
    """See `Backend.mean_gradients`: all files of weights in one child."""
    with scratch() as folder:
        file = folder / "gradients.raw"
        job = {
            "net": str(net),
            "weights": [str(path) for path in weights],
            "layers": list(layers),
            "batches": batches,
            "state": asdict(state),
            "to": str(file),
        }
        shapes = run_job("caffe_split.backends.caffe.gradients", job)
        values = np.fromfile(file, np.float64)
    sizes = [math.prod(shape) for shape in shapes]
    rows = values.reshape(len(weights), sum(sizes))
    return [
        {name: part.reshape(shape) for name, shape, part in zip(layers, shapes, np.split(row, np.cumsum(sizes)[:-1]))}
        for row in rows
    ]


def _gradients(job: dict[str, Any], weights: str) -> list[np.ndarray]:
    """In the child: the mean gradient of each layer's first blob."""
    import caffe

    caffe.set_random_seed(0)
    net = open_net(job["net"], weights, job["state"])
    sums = [np.zeros(net.params[name][0].data.shape) for name in job["layers"]]
    for _ in range(job["batches"]):
        # Caffe adds to the gradients that are there; its solver sets them to 0 for each iteration.
        net.clear_param_diffs()
        net.forward()
        net.backward()
        for total, name in zip(sums, job["layers"]):
            total += net.params[name][0].diff
    return [total / job["batches"] for total in sums]


def main() -> None:
    """The child: a job as JSON in the first argument, the shape of each layer's blob as JSON on the last line."""
    job = json.loads(sys.argv[1])
    shapes: list[list[int]] = []
    with open_new(job["to"]) as stream:
        for weights in job["weights"]:
            found = _gradients(job, weights)
            shapes = [list(each.shape) for each in found]
            for each in found:
                stream.write(np.ascontiguousarray(each).data)
    print(json.dumps(shapes))


if __name__ == "__main__":
    main()
