"""Good inputs to start from, one list a target."""

from __future__ import annotations

import os
import tempfile
from pathlib import Path

import numpy as np

from caffe_split.formats.prototxt import caffe_pb2, schema
from caffe_split.formats.weights import caffemodel


def seeds() -> dict[str, list[bytes]]:
    files = Path(__file__).resolve().parents[1] / "formats" / "files"
    model = caffe_pb2.NetParameter(name="n")
    layer = model.layer.add(name="conv", type="Convolution", bottom=["a"])
    layer.blobs.add(data=[1, 2, 3, 4], shape=caffe_pb2.BlobShape(dim=[2, 2]))
    layer.blobs.add(double_data=[1.5], num=1, channels=1, height=1, width=1)
    old = caffe_pb2.NetParameter(name="n")
    old.layers.add(name="ip", type=14).blobs.add(num=1, channels=1, height=1, width=2, data=[1, 2])
    old.layers.add().layer.name = "v0"
    singles = b"\xa2\x06\x17\x0a\x01a\x3a\x12" + b"\x2d\0\0\x80\x3f" * 2 + b"\x3a\x03\x0a\x01\x02" + b"\x10\x01\x18"
    state = caffe_pb2.SolverState(iter=7, learned_net="n", current_step=2)
    state.history.add(data=[1, 2], shape=caffe_pb2.BlobShape(dim=[2]))
    state.history.add(data=[1], num=1, channels=1, height=1, width=1)
    with tempfile.TemporaryDirectory() as folder:
        paths = [os.path.join(folder, name) for name in ("w.h5", "s.h5")]
        caffemodel.write_weights(paths[0], {"conv": [np.ones((2, 3)), np.zeros(2)], "relu": [], "ip": [np.ones(2)]})
        caffemodel.write_solverstate(paths[1], caffemodel.SolverState(7, "n", 2, [np.ones((2, 3)), np.zeros(2)]))
        hdf5 = [Path(path).read_bytes() for path in paths]
    group = b"\x63\x08\x01\x64" + model.SerializeToString()
    return {
        "prototxt": [path.read_bytes() for path in sorted(files.glob("*.prototxt"))],
        "caffemodel": [model.SerializeToString(), old.SerializeToString(), singles, group],
        "solverstate": [state.SerializeToString(), state.SerializeToString() + b"\xf2\x06\x01x"],
        "hdf5": hdf5,
        "proto": [Path(schema.__file__).with_name("caffe.proto").read_bytes()[:3000]],
    }
