"""Mean and variance of channels over a net's own training data, measured in the built Caffe.

Run as a program it is the child of `channel_statistics`; see `child.py`.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import Any

import numpy as np

from caffe_split.backends.caffe.child import open_net, run_job
from caffe_split.backends.measure import measure
from caffe_split.backends.protocol import NetFiles
from caffe_split.net.state import NetState
from caffe_split.split.branch_norm import ChannelStatistics


def channel_statistics(
    net: NetFiles, blobs: Sequence[str], batches: int, state: NetState
) -> dict[str, ChannelStatistics]:
    """Forward batches of the net's own data in a child. Raises `CaffeSplitError` with Caffe's own last words."""
    job = {
        "net": str(net.net),
        "weights": str(net.weights),
        "blobs": list(blobs),
        "batches": batches,
        "state": asdict(state),
    }
    answer = run_job("caffe_split.backends.caffe.statistics", job)
    return {name: ChannelStatistics(np.array(mean), np.array(variance)) for name, (mean, variance) in answer.items()}


def _batches(job: dict[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    net = open_net(job["net"], job["weights"], job["state"])
    for _ in range(job["batches"]):
        net.forward()
        yield {name: net.blobs[name].data for name in job["blobs"]}


def main() -> None:
    """The child: a job as JSON in the first argument, blob -> [means, variances] as JSON on the last line."""
    job = json.loads(sys.argv[1])
    found = measure(_batches(job), job["blobs"])
    print(json.dumps({name: [each.mean.tolist(), each.variance.tolist()] for name, each in found.items()}))


if __name__ == "__main__":
    main()
