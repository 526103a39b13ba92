"""The net as a library: fewer passes change nothing, and wrong inputs are refused."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_split.data.store import write_store
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_net
from tests.engine.runs import write_training
from tests.support import ROOT

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine import python_layer
from caffe_split.engine.model.net import Net

SMALL = """
layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 6 dim: 6 } } }
layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param {
  num_output: 4 kernel_size: 3 weight_filler { type: "gaussian" } } }
layer { name: "r" type: "ReLU" bottom: "c" top: "r" }
layer { name: "s" type: "Sigmoid" bottom: "r" top: "r" }
layer { name: "i" type: "ReLU" bottom: "r" top: "r" }
"""


@pytest.fixture(autouse=True)
def one_thread() -> None:
    torch.set_num_threads(1)


def test_fewer_passes_change_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_training(tmp_path, 'base_lr: 1 lr_policy: "fixed"', 1)
    document = read_net("net.prototxt", upgrade=True)
    plain, fused = (Net(document, "TRAIN", seed=1, fuse=fuse) for fuse in (False, True))
    assert len(fused.calls) < len(plain.calls)
    for _ in range(2):
        losses = [net.forward().loss for net in (plain, fused)]
        for loss in losses:
            loss.backward()
        assert float(losses[0].detach()) == pytest.approx(float(losses[1].detach()), rel=1e-5)
    for a, b in zip(plain.params, fused.params):
        assert torch.allclose(a.values, b.values, rtol=1e-4, atol=1e-6), a
        if a.values.grad is not None:
            assert torch.allclose(a.values.grad, b.values.grad, rtol=1e-3, atol=1e-5), a


def test_a_relu_overwrites_nothing_that_is_needed() -> None:
    net = Net(prototxt.parse(SMALL, kind="net"), "TRAIN", fuse=True)
    assert [layer.in_place for layer in net.layers if layer.text.type == "ReLU"] == [False, False]
    blobs = net.forward({"x": np.random.default_rng(0).normal(size=(2, 3, 6, 6))}, keep=True).blobs
    assert float(blobs["c"].detach().min()) < 0
    blobs["r"].sum().backward()


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_classes_of_the_user_and_data_have_the_layers_own_phase(phase: str, tmp_path: Path) -> None:
    python_layer("m", "Asked")(lambda param_str, phase: lambda: torch.full((1,), float(phase == "TEST")))
    images = np.arange(25, dtype=np.uint8).reshape(1, 1, 5, 5)
    write_store(tmp_path / "images", [(image, 0) for image in np.repeat(images, 20, 0)])
    text = f"""
layer {{ name: "p" type: "Python" top: "p" phase: TEST python_param {{ module: "m" layer: "Asked" }} }}
layer {{ name: "d" type: "Data" top: "d" phase: TEST transform_param {{ crop_size: 3 }}
  data_param {{ source: "{tmp_path}/images" batch_size: 20 backend: LMDB }} }}
"""
    blobs = Net(prototxt.parse(text, kind="net"), phase).forward(keep=True).blobs
    assert blobs["p"].tolist() == [1]
    assert np.array_equal(blobs["d"].numpy(), np.repeat(images[:, :, 1:4, 1:4], 20, 0))


@pytest.mark.parametrize(
    ("inputs", "expected"),
    [({"y": np.zeros(3)}, "no input 'y'; its inputs: x"), ({"x": np.zeros((1, 3, 6, 6))}, "built for (2, 3, 6, 6)")],
)
def test_wrong_inputs_are_refused(inputs: dict[str, np.ndarray], expected: str) -> None:
    with pytest.raises(CaffeSplitError) as said:
        Net(prototxt.parse(SMALL, kind="net"), "TEST").forward(inputs)
    assert expected in str(said.value)


def test_weights_of_another_net_are_refused(tmp_path: Path) -> None:
    net = Net(prototxt.parse(SMALL, kind="net"), "TEST")
    with pytest.raises(CaffeSplitError, match="none of its layers"):
        net.load({"other": [np.zeros(3, np.float32)]}, "other.caffemodel")
    with pytest.raises(CaffeSplitError, match="has 1 blobs of it"):
        net.load({"c": [np.zeros((4, 3, 3, 3), np.float32)]}, "half.caffemodel")
    with pytest.raises(CaffeSplitError, match="blob 0 has shape"):
        net.load({"c": [np.zeros((4, 3, 3, 2), np.float32), np.zeros(4, np.float32)]}, "odd.caffemodel")


@pytest.mark.parametrize("name", sorted(path.parent.name for path in (ROOT / "prototxt").glob("*/deploy.prototxt")))
def test_every_deploy_net_is_handled(name: str) -> None:
    document = read_net(ROOT / "prototxt" / name / "deploy.prototxt", upgrade=True)
    assert Net(document, "TEST").outputs


def test_an_embedding_refuses_rows_that_it_does_not_have() -> None:
    text = """layer { name: "in" type: "Input" top: "x" input_param { shape { dim: 3 } } }
layer { name: "e" type: "Embed" bottom: "x" top: "y" embed_param { num_output: 2 input_dim: 4 } }"""
    net = Net(prototxt.parse(text, kind="net"), "TEST")
    assert tuple(net.forward({"x": np.array([0, 3, 1])}).blobs["y"].shape) == (3, 2)
    for wrong in (4, -1):
        with pytest.raises(CaffeSplitError, match=f"layer 'e' .*: bottom 'x' asks for row {wrong} of 4"):
            net.forward({"x": np.array([0, wrong, 1])})
