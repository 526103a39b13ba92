"""Forward nets in the built Caffe.

Run as a program it is the child of `forward`; see `child.py`. Blobs come back in one raw file per net, which the parent
maps into memory: a batch of a large net is gigabytes, and neither process holds all of it.
"""

from __future__ import annotations

import ctypes
import json
import math
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.backends.caffe.child import open_net, run_job
from caffe_split.backends.compare import load_inputs, one_rounding
from caffe_split.backends.protocol import Forwarded, Forwarding, NetFiles
from caffe_split.errors import CaffeSplitError
from caffe_split.files import open_new, scratch
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.net.layers import all_layers

# Blob -> shape, in the order in which a batch's values follow each other in the file.
Shapes = dict[str, "list[int]"]


def forward(nets: Sequence[NetFiles], how: Forwarding) -> list[Forwarded]:
    """Forward each net in one child. Raises `CaffeSplitError` with Caffe's own last words."""
    with scratch() as folder:
        files = [folder / f"{number}.raw" for number in range(len(nets))]
        job = {
            "nets": [[*map(str, net), str(file)] for net, file in zip(nets, files)],
            "batches": how.batches,
            "state": asdict(how.state),
            "seed": how.seed,
            "input": None if how.input_file is None else str(how.input_file),
            "shapes": dict(how.shapes),
            "rounded": how.rounded,
        }
        answer = run_job("caffe_split.backends.caffe.forward", job)
        # Mapped files stay readable when their names are gone.
        return [_read(file, *given) for file, given in zip(files, answer)]


def _read(file: Path, outputs: list[str], batches: Sequence[Shapes]) -> Forwarded:
    """The blobs in a file that `_forward` wrote."""
    values = np.memmap(file, np.float32, "r") if file.stat().st_size else np.empty(0, np.float32)
    end = 0
    found = []
    for shapes in batches:
        blobs = {}
        for name, shape in shapes.items():
            start, end = end, end + math.prod(shape)
            blobs[name] = values[start:end].reshape(shape)
        found.append(blobs)
    return Forwarded(outputs, found)


def _forward(job: dict[str, Any], path: str, weights: str, to: str) -> tuple[list[str], list[Shapes]]:
    """In the child: write a net's blobs, batch by batch, to a file. Returns its outputs, and the shapes per batch."""
    import caffe

    seed, input_file = job["seed"], job["input"]
    caffe.set_random_seed(seed)
    # HDF5Data shuffles by the C library's numbers, which go on from net to net.
    ctypes.CDLL(None).srand(seed)
    net = open_net(path, weights, job["state"])
    # Once more: the nets' fillers have drawn different numbers.
    caffe.set_random_seed(seed)
    # Rounding has numbers of its own, so that the inputs are the same with and without it.
    rng, rounding = np.random.default_rng(seed), np.random.default_rng([seed, 1])
    written = {layer.name for layer in all_layers(read_net(path, upgrade=True))}
    ignored = {
        top
        for name, layer in zip(net._layer_names, net.layers)  # noqa: SLF001 - pycaffe has no public name for it.
        if layer.type == "TPM" or (layer.type == "Split" and name not in written)
        for top in net.top_names[name]
    }
    given = load_inputs(Path(input_file), list(net.inputs), path) if input_file is not None else {}
    if given:
        job["shapes"] = {name: array.shape for name, array in given.items()}
    for name, shape in job["shapes"].items():
        net.blobs[name].reshape(*shape)
    if job["shapes"]:
        net.reshape()
    batches = []
    with open_new(to) as stream:
        for _ in range(job["batches"]):
            for name in net.inputs:
                blob = net.blobs[name].data
                blob[...] = given[name] if name in given else rng.standard_normal(blob.shape)
            _run(net, rounding if job["rounded"] else None)
            kept = {name: blob.data for name, blob in net.blobs.items() if name not in ignored}
            for values in kept.values():
                stream.write(np.ascontiguousarray(values, np.float32).data)
            batches.append({name: list(values.shape) for name, values in kept.items()})
    return [name for name in net.outputs if name not in ignored], batches


def _run(net: Any, rounding: np.random.Generator | None) -> None:
    """In the child: run all layers; with `rounding`, what layers without bottoms give is rounded once."""
    if rounding is None:
        net.forward()
        return
    for number, name in enumerate(net._layer_names):  # noqa: SLF001 - pycaffe has no public name for either.
        net._forward(number, number)  # noqa: SLF001
        if not net.bottom_names[name]:
            for top in net.top_names[name]:
                net.blobs[top].data[...] = one_rounding(net.blobs[top].data, rounding)


def main() -> None:
    """The child: a job as JSON in the first argument, outputs and shapes as JSON on the last line that it prints."""
    job = json.loads(sys.argv[1])
    try:
        print(json.dumps([_forward(job, *net) for net in job["nets"]]))
    except CaffeSplitError as error:
        sys.exit(str(error))


if __name__ == "__main__":
    main()
