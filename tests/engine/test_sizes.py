"""Shapes that change from batch to batch: images of many sizes in batches of one, and what a Filter lets through."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.runs import compare, ours, theirs, write_training
from tests.engine.source_files import encoded, picture

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.data.store import write_store
from caffe_split.engine.model.net import Net
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from tests.engine.test_against_caffe import same_snapshots

SIZES = [(12, 9), (7, 15), (12, 9), (16, 16), (9, 8)]
# A small fully convolutional net: scores of every pixel, up again and cropped to the image.
NET = """
layer { name: "data" type: "Data" top: "data" transform_param { scale: 0.01 mean_value: 99 mirror: false }
  data_param { source: "images" batch_size: 1 backend: LMDB } }
layer { name: "label" type: "Data" top: "label" data_param { source: "maps" batch_size: 1 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param { num_output: 6 kernel_size: 3 pad: 4 weight_filler { type: "msra" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param { bias_term: true } }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "norm" type: "LRN" bottom: "pool" top: "norm" lrn_param { local_size: 3 } }
layer { name: "score" type: "Convolution" bottom: "norm" top: "score"
  convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }
layer { name: "up" type: "Deconvolution" bottom: "score" top: "up"
  convolution_param { num_output: 4 kernel_size: 4 stride: 2 bias_term: false weight_filler { type: "bilinear" } } }
layer { name: "cut" type: "Crop" bottom: "up" bottom: "data" top: "cut" crop_param { axis: 2 offset: 3 } }
layer { name: "mean" type: "Pooling" bottom: "norm" top: "mean" pooling_param { pool: AVE global_pooling: true } }
layer { name: "pyramid" type: "SPP" bottom: "norm" top: "pyramid" spp_param { pyramid_height: 2 } }
layer { name: "flat" type: "Flatten" bottom: "mean" top: "flat" }
layer { name: "join" type: "Concat" bottom: "flat" bottom: "pyramid" top: "join" }
layer { name: "ip" type: "InnerProduct" bottom: "join" top: "ip"
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "size" type: "Reduction" bottom: "ip" top: "size" loss_weight: 0.1 reduction_param { operation: SUMSQ } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "cut" bottom: "label" top: "loss"
  loss_param { ignore_label: 3 } }
layer { name: "right" type: "Accuracy" bottom: "cut" bottom: "label" top: "right" include { phase: TEST } }
"""


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def write_images() -> None:
    rng = np.random.default_rng(3)
    for name, channels, values in (("images", 3, 256), ("maps", 1, 4)):
        drawn = (rng.integers(values, size=(channels, *size), dtype=np.uint8) for size in SIZES)
        write_store(name, ((image, 0) for image in drawn))


@pytest.mark.caffe
def test_a_training_on_images_of_many_sizes_matches_caffe(folder: Path) -> None:
    write_images()
    settings = 'base_lr: 0.01 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed"'
    write_training(folder, settings, 13, net=NET)
    start, _ = ours("solver.prototxt", seed=5, wish=lambda: "stop")
    weights = start.snapshot()[0].rename(folder / "init.caffemodel")
    _, our_log = ours("solver.prototxt", weights=[str(weights)])
    compare(our_log, theirs("solver.prototxt", folder, weights=str(weights)), 1e-4)
    same_snapshots(13)


def test_blobs_have_the_shapes_of_their_image(folder: Path) -> None:
    write_images()
    net = Net(prototxt.parse(NET, kind="net"), "TRAIN", fuse=True, compiled=True)
    assert net.varies and net.shapes["data"] == (1, 3, *SIZES[0])
    for height, width in SIZES * 2:
        blobs = net.forward(keep=True).blobs
        assert blobs["data"].shape == (1, 3, height, width) and blobs["cut"].shape == (1, 4, height, width)


def test_what_does_not_fit_an_image_is_named(folder: Path) -> None:
    write_images()
    text = NET.replace('bottom: "join" top: "ip"', 'bottom: "norm" top: "ip"')
    net = Net(prototxt.parse(text, kind="net"), "TRAIN")
    net.forward()
    with pytest.raises(
        CaffeSplitError, match=r"layer 'ip' .*want a blob 0 of \(2, 462\); that of the first batch is \(2, 432\)"
    ):
        net.forward()


def test_larger_batches_and_mean_images_hold_one_size(folder: Path) -> None:
    write_images()
    net = Net(prototxt.parse(NET.split('layer { name: "label"')[0].replace("size: 1", "size: 2"), kind="net"), "TRAIN")
    with pytest.raises(CaffeSplitError, match="one batch holds one shape"):
        net.forward()


def test_listed_images_keep_their_sizes_in_batches_of_one(folder: Path) -> None:
    for index, size in enumerate(SIZES):
        Path(f"{index}.png").write_bytes(encoded(picture(index, size), "PNG"))
    Path("list").write_text("".join(f"{index}.png {index}\n" for index in range(len(SIZES))))
    text = (
        'layer { name: "d" type: "ImageData" top: "d" top: "l" image_data_param { source: "list" } }\n'
        'layer { name: "p" type: "Pooling" bottom: "d" top: "p" pooling_param { global_pooling: true } }\n'
    )
    net = Net(prototxt.parse(text, kind="net"), "TEST")
    for index, size in enumerate(SIZES):
        blobs = net.forward(keep=True).blobs
        assert blobs["d"].shape == (1, 3, *size) and blobs["l"].tolist() == [index]
        assert torch.equal(blobs["p"].flatten(), torch.from_numpy(picture(index, size)).float().amax((0, 1)).flip(0))


FILTERED = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 4 dim: 3 } } }
layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 4 } } }
layer { name: "f" type: "Filter" bottom: "x" bottom: "s" top: "f" }
layer { name: "y" type: "Reshape" bottom: "f" top: "y" reshape_param { shape { dim: -1 } } }
"""


def test_a_filter_lets_through_what_each_batch_says() -> None:
    x = np.arange(12, dtype=np.float32).reshape(4, 3)
    net = Net(prototxt.parse(FILTERED, kind="net"), "TRAIN")
    assert net.shapes["y"] == (12,)
    for chosen in ([0, 2], [3], [0, 1, 2, 3]):
        selector = np.isin(np.arange(4), chosen).astype(np.float32) * -0.5
        assert net.forward({"x": x, "s": selector}).blobs["y"].tolist() == x[chosen].ravel().tolist()
    with pytest.raises(CaffeSplitError, match=r"layer 'f' .*'s' lets no record of this batch through"):
        net.forward({"x": x, "s": np.zeros(4, np.float32)})
    empty = Net(prototxt.parse(FILTERED, kind="net"), "TEST").forward({"x": x, "s": np.zeros(4, np.float32)})
    assert empty.blobs["y"].shape == (0,)
