"""A small model that the tests of weights write and read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from caffe_split.formats.prototxt import caffe_pb2

RNG = np.random.default_rng(0)
W = RNG.standard_normal((4, 3, 5, 5)).astype(np.float32)
B = RNG.standard_normal(4).astype(np.float32)


def put(tmp_path: Path, message: object, name: str = "x.caffemodel") -> Path:
    """A file of these bytes, or of this protobuf message."""
    path = tmp_path / name
    path.write_bytes(message if isinstance(message, bytes) else message.SerializeToString())
    return path


def v2_model() -> caffe_pb2.NetParameter:
    """A convolution with its weight and bias, and a layer without weights."""
    model = caffe_pb2.NetParameter(name="n")
    one = model.layer.add(name="conv1", type="Convolution", bottom=["data"])
    for values in (W, B):
        one.blobs.add(data=values.ravel(), shape=caffe_pb2.BlobShape(dim=values.shape))
    model.layer.add(name="relu1", type="ReLU")
    return model
