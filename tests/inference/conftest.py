"""A net, weights and a data set that take no time."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.data.store import write_store

NET = """
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
        transform_param { scale: 0.01 } data_param { source: "test_lmdb" batch_size: 4 backend: LMDB } }
layer { name: "data" type: "DummyData" top: "data" top: "label" include { phase: TRAIN }
        dummy_data_param { shape { dim: 4 dim: 2 dim: 3 dim: 3 } shape { dim: 4 } } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 5 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "ip" type: "InnerProduct" bottom: "conv" top: "ip" inner_product_param { num_output: 6 } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "top3" type: "Accuracy" bottom: "ip" bottom: "label" top: "top3" include { phase: TEST }
        accuracy_param { top_k: 3 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 0.5 }
"""
RECORDS = 10


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory: net.prototxt, w.caffemodel and a test_lmdb of 10 records."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    images = rng.integers(0, 256, (RECORDS, 2, 3, 3), dtype=np.uint8)
    write_store("test_lmdb", zip(images, rng.integers(0, 6, RECORDS).tolist()))
    Path("net.prototxt").write_text(NET)
    write_weights(Path("w.caffemodel"), 1)
    return tmp_path


def write_weights(path: Path, seed: int) -> None:
    rng = np.random.default_rng(seed)
    shapes = {"conv": [(5, 2, 3, 3), (5,)], "ip": [(6, 5), (6,)]}
    cs.write_weights(path, {name: [rng.normal(size=shape) for shape in own] for name, own in shapes.items()})
