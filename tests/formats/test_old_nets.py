"""Nets and weights of 2013-14 in the commands: read, split, verified and trained on in the real Caffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import caffe_pb2
from caffe_split.formats.weights import caffemodel
from tests.support import caffe_split, train

pytestmark = pytest.mark.caffe

DATA = """layers { name: "data" type: DUMMY_DATA top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 12 dim: 12 } shape { dim: 4 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" } } }
"""
INPUT = 'input: "data"  # pictures\ninput_dim: 2 input_dim: 3\ninput_dim: 12 input_dim: 12\n'
BODY = """layers {
  name: "conv1"  # the first
  type: CONVOLUTION
  bottom: "data"
  top: "conv1"
  blobs_lr: 1
  blobs_lr: 2
  weight_decay: 1
  weight_decay: 0
  convolution_param { num_output: 8 kernel_size: 3 pad: 1 weight_filler { type: "xavier" } }
}
layers { name: "relu1" type: RELU bottom: "conv1" top: "conv1" }
layers { name: "ip" type: INNER_PRODUCT bottom: "conv1" top: "ip"
  inner_product_param { num_output: 5 weight_filler { type: "xavier" } } }
"""
LOSS = 'layers { name: "loss" type: SOFTMAX_LOSS bottom: "ip" bottom: "label" top: "loss" }\n'
V0 = """# of 2013
input: "data"
input_dim: 2 input_dim: 3 input_dim: 12 input_dim: 12
layers { layer { name: "pad1" type: "padding" pad: 1 } bottom: "data" top: "pad1" }
layers { layer { name: "conv1" type: "conv" num_output: 8 kernelsize: 3 blobs_lr: 1. blobs_lr: 2. }
         bottom: "pad1" top: "conv1" }
layers { layer { name: "relu1" type: "relu" } bottom: "conv1" top: "conv1" }
layers { layer { name: "ip" type: "innerproduct" num_output: 5 } bottom: "conv1" top: "ip" }
"""
SOLVER = """net: "net.prototxt"
base_lr: 0.01 momentum: 0.9 lr_policy: "step" gamma: 0.5 stepsize: 5
max_iter: 10 snapshot: 2 snapshot_prefix: "s"
solver_type: NESTEROV  # old
solver_mode: CPU random_seed: 1
test_iter: 1 test_interval: 100
"""
SHAPES = {"conv1": [(8, 3, 3, 3), (1, 1, 1, 8)], "ip": [(1, 1, 5, 1152), (1, 1, 1, 5)]}


def old_weights(path: Path, form: str) -> None:
    """Random weights with four axes everywhere, as Caffe wrote them then."""
    rng = np.random.default_rng(0)
    model = caffe_pb2.NetParameter(name="old")
    for name, shapes in SHAPES.items():
        layer = model.layers.add()
        if form == "v0":
            layer = layer.layer
            layer.name, layer.type = name, {"conv1": "conv", "ip": "innerproduct"}[name]
        else:
            layer.name = name
            layer.type = {"conv1": caffe_pb2.V1LayerParameter.CONVOLUTION}.get(
                name, caffe_pb2.V1LayerParameter.INNER_PRODUCT
            )
        for shape in shapes:
            layer.blobs.add(
                **dict(zip(("num", "channels", "height", "width"), shape)), data=rng.standard_normal(np.prod(shape))
            )
    path.write_bytes(model.SerializeToString())


@pytest.mark.parametrize(("form", "text"), [("v1", INPUT + BODY), ("v0", V0)])
def test_a_net_derived_from_old_files_computes_what_they_compute(form: str, text: str, tmp_path: Path) -> None:
    """The derived net of an old net and its old weights computes what they compute, by Caffe's own reading of them."""
    (tmp_path / "net.prototxt").write_text(text)
    old_weights(tmp_path / "w.caffemodel", form)
    plan = caffe_split(
        "make-derived",
        "net.prototxt",
        "--weights",
        "w.caffemodel",
        "--layers",
        "conv1",
        "--partition",
        "random:0",
        "--out",
        "d",
        cwd=tmp_path,
    ).stdout
    assert "in today's form: net.prototxt: layers became layer (3 layers)" in plan
    derived = prototxt.read(tmp_path / "d/net.prototxt")
    assert next(layer.get("type") for layer in derived.subs("layer")) == "Input" and not derived.has("input_dim")
    assert all(line[line.index("#") :] in str(derived) for line in text.splitlines() if "#" in line)
    done = caffe_split("verify", "net.prototxt", "d/net.prototxt", cwd=tmp_path)
    assert "same function" in done.stdout


@pytest.mark.parametrize("suffix", ["", ".h5"])
def test_caffe_takes_old_weights_that_we_wrote_anew(suffix: str, tmp_path: Path) -> None:
    """Inner products of 1x1xMxN and biases of 1x1x1xN, which Caffe takes in certain forms only."""
    (tmp_path / "net.prototxt").write_text(INPUT + BODY)
    old_weights(tmp_path / "w.caffemodel", "v1")
    caffemodel.write_weights(tmp_path / f"copy.caffemodel{suffix}", caffemodel.read_weights(tmp_path / "w.caffemodel"))
    done = caffe_split(
        "verify",
        "net.prototxt",
        "net.prototxt",
        "--baseline-weights",
        "w.caffemodel",
        "--derived-weights",
        f"copy.caffemodel{suffix}",
        cwd=tmp_path,
    ).stdout
    assert "largest relative difference 0.000e+00" in done


def test_an_old_training_is_measured_derived_and_trained_on(tmp_path: Path) -> None:
    """An old net and an old solver, trained; then tpm, make-derived, instrument, and the derived solver trained."""
    net = DATA + BODY + LOSS
    (tmp_path / "net.prototxt").write_text(net)
    (tmp_path / "solver.prototxt").write_text(SOLVER)
    train("solver.prototxt", tmp_path)
    report = caffe_split("tpm", "net.prototxt", "--window", "2:10", cwd=tmp_path).stdout
    assert "('conv1', 8, 216)" in report
    (tmp_path / "deploy.prototxt").write_text(INPUT + BODY)
    caffe_split(
        "make-derived",
        "net.prototxt",
        "--iter",
        10,
        "--window",
        "2:10",
        "--deploy",
        "deploy.prototxt",
        "--out",
        "d",
        cwd=tmp_path,
    )
    assert "same function" in caffe_split("verify", "deploy.prototxt", "d/deploy.prototxt", cwd=tmp_path).stdout
    solver = prototxt.read(tmp_path / "d/solver.prototxt")
    assert solver.get("type") == "Nesterov" and not solver.has("solver_type") and "# old" in str(solver)
    train("d/solver.prototxt", tmp_path)
    assert (tmp_path / "d/s_iter_10.caffemodel").exists()

    refused = caffe_split("instrument", "solver.prototxt", "--window", "0:10", "--in-place", cwd=tmp_path, status=1)
    assert "net.prototxt: the net is in the old form (`layers`)" in refused.stderr and "--upgrade" in refused.stderr
    assert (tmp_path / "net.prototxt").read_text() == net
    done = caffe_split("instrument", "solver.prototxt", "--window", "0:10", "--upgrade", "--in-place", cwd=tmp_path)
    assert "net.prototxt: layers became layer (5 layers)" in done.stderr
    train("solver.prototxt", tmp_path)
    assert "('conv1', 8, 216)" in caffe_split("tpm", "solver.prototxt", "--iter", 10, cwd=tmp_path).stdout


def test_the_nets_within_a_solver_become_files_that_caffe_trains(tmp_path: Path) -> None:
    """A solver that holds its nets (as DIGITS writes them) is split: the nets become files, and Caffe trains them."""
    net = caffe_split_upgraded(DATA + BODY + LOSS)
    test_net = net.replace("dim: 4 ", "dim: 3 ").replace("dim: 4 }", "dim: 3 }")
    (tmp_path / "other_test.prototxt").write_text(net)
    text = SOLVER.replace('net: "net.prototxt"', "train_net_param {  # mine\n" + indented(net) + "}")
    text = text.replace("test_iter: 1", 'test_iter: 1\ntest_iter: 1\ntest_net: "other_test.prototxt"')
    (tmp_path / "solver.prototxt").write_text(text + "test_net_param {\n" + indented(test_net) + "}\n")
    train("solver.prototxt", tmp_path)
    caffe_split("make-derived", "solver.prototxt", "--iter", 10, "--window", "2:10", "--out", "d", cwd=tmp_path)
    files = {path.name for path in (tmp_path / "d").iterdir()}
    nets = {"solver_train_net.prototxt", "solver_test0_net.prototxt", "other_test.prototxt"}
    assert files == nets | {"solver.prototxt", "init.caffemodel", "manifest.json"}
    solver = prototxt.read(tmp_path / "d/solver.prototxt")
    assert solver.get("train_net") == "d/solver_train_net.prototxt" and not solver.has("train_net_param")
    assert solver.get_all("test_net") == ["d/solver_test0_net.prototxt", "d/other_test.prototxt"]
    for name in nets:
        derived = prototxt.read(tmp_path / "d" / name)
        assert "conv1_reorder" in [layer.get("name") for layer in derived.subs("layer")]
        assert "  # the first" in str(derived)
    assert str(prototxt.read(tmp_path / "d/solver_train_net.prototxt")).startswith("# mine\nlayer {")
    log = train("d/solver.prototxt", tmp_path)
    assert "Creating test net (#1)" in log and "d/other_test.prototxt" in log
    refused = caffe_split("instrument", "solver.prototxt", "--window", "0:10", cwd=tmp_path, status=1)
    assert "the net stands in the solver itself" in refused.stderr


def caffe_split_upgraded(text: str) -> str:
    from caffe_split.formats.prototxt.upgrade import upgrade

    document = prototxt.parse(text)
    upgrade(document)
    return str(document)


def indented(text: str) -> str:
    return "".join(f"  {line}\n" for line in text.splitlines())
