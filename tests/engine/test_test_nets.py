"""Layers that only a test net has: their weights come from the file that a training starts from, as in Caffe."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.caffemodel import write_weights
from tests.engine.runs import ours
from tests.support import caffe_split, train

pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

# The scores are 0.6 and 0.3, of which `cal` makes 4 and -0.4: a loss of log(1 + e^(4.4)) for the label 1.
NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param { shape { dim: 4 dim: 3 }
  shape { dim: 4 } data_filler { value: 1 } data_filler { value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" param { lr_mult: 0 } param { lr_mult: 0 }
  inner_product_param { num_output: 2 weight_filler { type: "xavier" } } }
layer { name: "cal" type: "Scale" bottom: "ip" top: "cal" include { phase: TEST } scale_param { bias_term: true } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" include { phase: TRAIN } }
layer { name: "far" type: "SoftmaxWithLoss" bottom: "cal" bottom: "label" top: "far" include { phase: TEST } }
"""
SOLVER = """net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 display: 1 test_iter: 1 test_interval: 1
snapshot_prefix: "n" solver_mode: CPU random_seed: 1
"""
WEIGHTS = {
    "ip": [np.array([[0.1, 0.2, 0.3], [0.4, 0.1, -0.2]]), np.zeros(2)],
    "cal": [np.array([5.0, 2.0]), np.array([1.0, -1.0])],
    "gone": [np.ones(1)],
}
LOSS = float(np.log1p(np.exp(4.4)))


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)
    write_weights("w.caffemodel", WEIGHTS)
    return tmp_path


def losses(log: str) -> list[float]:
    return [float(value) for value in re.findall(r"Test net output #0: far = (\S+)", log)]


@pytest.mark.parametrize("given", ["weights", "solver"])
def test_weights_reach_them(backend: str, given: str, here: Path) -> None:
    if given == "solver":
        Path("solver.prototxt").write_text(f'{SOLVER} weights: "w.caffemodel"')
    log = train("solver.prototxt", here, backend=backend, weights="w.caffemodel" if given == "weights" else None)
    assert losses(log) == pytest.approx([LOSS] * 3, rel=1e-5)
    assert "Ignoring source layer gone" in log


def test_the_log_says_which_layer_goes_where(here: Path) -> None:
    log = ours("solver.prototxt", weights=["w.caffemodel"])[1]
    assert "Layer cal, which only test net (#0) has, starts from w.caffemodel\n" in log
    assert re.findall("Ignoring source layer (.*)", log) == ["gone"]
    write_weights("w.caffemodel", {"ip": WEIGHTS["ip"]})
    log = ours("solver.prototxt", weights=["w.caffemodel"])[1]
    assert "Layer cal, which only test net (#0) has, is not in w.caffemodel and starts from its fillers\n" in log
    assert "Layer cal" not in ours("solver.prototxt")[1]


def test_what_one_of_several_files_gives_is_not_said_to_start_from_its_fillers() -> None:
    write_weights("a.caffemodel", {"cal": WEIGHTS["cal"], "ip": WEIGHTS["ip"]})
    write_weights("b.caffemodel", {"ip": WEIGHTS["ip"]})
    log = ours("solver.prototxt", weights=["a.caffemodel", "b.caffemodel"])[1]
    assert losses(log) == pytest.approx([LOSS] * 3, rel=1e-5)
    assert "Layer cal, which only test net (#0) has, starts from a.caffemodel\n" in log and "fillers" not in log


def test_a_resumed_training_loads_them_again() -> None:
    """No snapshot has them. Caffe would test with their fillers."""
    ours("solver.prototxt", weights=["w.caffemodel"])
    Path("solver.prototxt").write_text(SOLVER.replace("max_iter: 2", "max_iter: 3"))
    resumed = {"snapshot": "n_iter_2.solverstate"}
    assert losses(ours("solver.prototxt", weights=["w.caffemodel"], **resumed)[1]) == pytest.approx(
        [LOSS] * 2, rel=1e-5
    )
    log = ours("solver.prototxt", **resumed)[1]
    assert "Layer cal, which only test net (#0) has, is not in a snapshot and starts from its fillers" in log


def test_weights_that_do_not_fit_them_are_refused_before_it_starts(backend: str, here: Path) -> None:
    write_weights("w.caffemodel", {**WEIGHTS, "cal": [np.ones(3), np.ones(3)]})
    words = ("train", "solver.prototxt", "--weights", "w.caffemodel", "--engine", backend)
    said = caffe_split(*words, cwd=here, status=1).stderr
    assert "w.caffemodel: layer 'cal' (line 6) has blobs [(3,), (3,)]" in said and not Path("train.log").exists()
    with pytest.raises(CaffeSplitError, match="blob 0 has shape"):
        ours("solver.prototxt", weights=["w.caffemodel"])
