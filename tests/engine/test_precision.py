"""Training with fewer bits, or compiled: the same training but for rounding."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.engine.runs import compare, numbers, ours, write_training
from tests.support import caffe_split

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

FIXED = 'base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" snapshot_after_train: false'


def log_of(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: object) -> str:
    torch.set_num_threads(1)
    monkeypatch.chdir(folder)
    return ours("solver.prototxt", **options)[1]


def test_bf16_is_near_and_tests_are_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path, FIXED, 12)
    full, low = (log_of(tmp_path, monkeypatch, precision=precision) for precision in ("fp32", "bf16"))
    compare(full, low, 0.2)
    a, b = numbers(full), numbers(low)
    assert a["loss or rate"] != b["loss or rate"]
    tests = [name for name in a if name.startswith("Test net") and name.endswith("loss")]
    # Before anything is trained both have the same weights; all digits are those of fp32.
    assert tests and all(a[name][0] == b[name][0] for name in tests)
    assert any(a[name][1:] != b[name][1:] for name in tests)


def test_bf16_computes_the_layers_between_with_16_bits(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from caffe_split.engine.model.net import Net
    from caffe_split.formats.prototxt.nets import read_net

    monkeypatch.chdir(tmp_path)
    write_training(tmp_path, FIXED, 1)
    net = Net(read_net("net.prototxt", upgrade=True), "TRAIN", precision="bf16")
    blobs = net.forward(keep=True).blobs
    found = {name: blob.dtype for name, blob in blobs.items()}
    assert {found[name] for name in ("left", "right", "sum", "ip")} == {torch.bfloat16}
    assert {found[name] for name in ("data", "label", "loss", "size")} == {torch.float32}
    assert all(param.values.dtype == torch.float32 for param in net.params)


# A shortcut as ResNet's: half of its channels are zeros, by a Power with scale 0.
SHORTCUT = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "a" type: "Convolution" bottom: "x" top: "a" convolution_param { num_output: 4 kernel_size: 1 } }
layer { name: "zero" type: "Power" bottom: "a" top: "zero" power_param { scale: 0 } }
layer { name: "both" type: "Concat" bottom: "a" bottom: "zero" top: "both" }
layer { name: "b" type: "Convolution" bottom: "a" top: "b" convolution_param { num_output: 8 kernel_size: 1 } }
layer { name: "sum" type: "Eltwise" bottom: "both" bottom: "b" top: "sum" }
layer { name: "relu" type: "ReLU" bottom: "sum" top: "sum" }
layer { name: "gate" type: "Sigmoid" bottom: "sum" top: "gate" }
layer { name: "half" type: "LRN" bottom: "gate" top: "half" }
"""


def test_no_layer_of_a_shortcut_falls_back_to_float32() -> None:
    from caffe_split.engine.model.net import Net
    from caffe_split.formats import prototxt

    net = Net(prototxt.parse(SHORTCUT, kind="net"), "TRAIN", precision="bf16")
    blobs = net.forward(keep=True).blobs
    full = {name for name, blob in blobs.items() if blob.dtype == torch.float32}
    assert full == {"x", "half"}
    assert net.precisions() == "7 layers in bfloat16; in float32: half"


@pytest.mark.slow
def test_a_compiled_training_is_the_same(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path, FIXED, 12)
    plain, compiled = (log_of(tmp_path, monkeypatch, compiled=compiled) for compiled in (False, True))
    compare(plain, compiled, 1e-3)


def test_tf32_without_cuda_is_refused(tmp_path: Path) -> None:
    write_training(tmp_path, FIXED, 2)
    words = ("train", "solver.prototxt", "--engine", "torch", "--precision", "tf32", "--device", "cpu")
    assert "--precision tf32 is for CUDA devices" in caffe_split(*words, cwd=tmp_path, status=1).stderr


def test_test_nets_of_a_bf16_training_are_fp32(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    write_training(tmp_path, FIXED, 1)
    solver, _ = ours("solver.prototxt", precision="bf16")
    assert solver.net.forward(keep=True).blobs["left"].dtype == torch.bfloat16
    assert solver.test_nets[0].forward(keep=True).blobs["left"].dtype == torch.float32
