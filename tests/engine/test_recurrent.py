"""Trainings of nets that carry a state from batch to batch, beside the real Caffe."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.case import Case, layer
from tests.engine.runs import compare, near, ours, theirs

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
h5py = pytest.importorskip("h5py", reason="h5py is not installed: pip install h5py")

from caffe_split.engine.model.net import Net
from caffe_split.engine.spec.support import judge_training, layers_of
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.weights.caffemodel import read_weights
from caffe_split.net.state import TRAIN
from tests.engine.judge import built, computed, difference, run_pycaffe, values
from tests.engine.test_against_caffe import same_snapshots

# Rows of the file are time steps of three streams. 23 rows in batches of 5: sequences go on in the next batch.
NET = """
layer {{ name: "data" type: "HDF5Data" top: "words" top: "cont" top: "target"
  hdf5_data_param {{ source: "list" batch_size: 5 }} }}
layer {{ name: "picture" type: "DummyData" top: "picture"
  dummy_data_param {{ shape {{ dim: 3 dim: 2 dim: 2 }} data_filler {{ value: 0.5 }} }} }}
layer {{ name: "features" type: "InnerProduct" bottom: "picture" top: "features"
  inner_product_param {{ num_output: 4 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "embed" type: "Embed" bottom: "words" top: "embedded"
  embed_param {{ num_output: 6 input_dim: 9 bias_term: false weight_filler {{ type: "uniform" min: -1 max: 1 }} }} }}
layer {{ name: "carry" type: "{kind}" bottom: "embedded" bottom: "cont" bottom: "features" top: "h"
  param {{ lr_mult: 1 }} param {{ lr_mult: 2 decay_mult: 0 }}
  recurrent_param {{ num_output: 7 weight_filler {{ type: "uniform" min: -0.5 max: 0.5 }}
    bias_filler {{ value: 0.1 }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "h" top: "h" relu_param {{ negative_slope: 0.3 }} }}
layer {{ name: "scores" type: "InnerProduct" bottom: "h" top: "scores"
  inner_product_param {{ num_output: 9 axis: 2 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "scores" bottom: "target" top: "loss"
  loss_param {{ ignore_label: -1 }} softmax_param {{ axis: 2 }} }}
"""


def write(kind: str, max_iter: int) -> None:
    rng = np.random.default_rng(4)
    with h5py.File("rows.h5", "w") as stream:
        stream["words"] = rng.integers(9, size=(23, 3)).astype(np.float32)
        stream["cont"] = (rng.random((23, 3)) < 0.8).astype(np.float32)
        stream["target"] = rng.integers(-1, 9, size=(23, 3)).astype(np.float32)
    Path("list").write_text("rows.h5\n")
    Path("net.prototxt").write_text(NET.format(kind=kind))
    Path("solver.prototxt").write_text(
        f'net: "net.prototxt"\nmax_iter: {max_iter}\ndisplay: 1\ntest_iter: 2\ntest_interval: 6\nbase_lr: 0.3\n'
        'momentum: 0.9 weight_decay: 0.001 clip_gradients: 2 lr_policy: "fixed" iter_size: 2\n'
        'snapshot_prefix: "ours"\nsolver_mode: CPU\nrandom_seed: 3\n'
    )


@pytest.mark.caffe
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_trainings_match_caffe_and_go_on_from_each_others_snapshots(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    torch.set_num_threads(1)
    monkeypatch.chdir(tmp_path)
    write(kind, 12)
    start, _ = ours("solver.prototxt", seed=5, wish=lambda: "stop")
    weights = start.snapshot()[0].rename(tmp_path / "init.caffemodel")
    _, our_log = ours("solver.prototxt", weights=[str(weights)])
    assert compare(our_log, theirs("solver.prototxt", tmp_path, weights=str(weights)), 1e-4) < 1e-4
    same_snapshots(12)
    shapes = [blob.shape for blob in read_weights("theirs_iter_12.caffemodel")["carry"]]
    gates = 28 if kind == "LSTM" else 7
    assert shapes == [(gates, 6), (gates,), (gates, 4), (gates, 7), *([(7, 7), (7,)] if kind == "RNN" else [])]
    write(kind, 16)
    from_ours = theirs("solver.prototxt", tmp_path, snapshot="ours_iter_12.solverstate")
    for who in ("ours", "theirs"):
        compare(ours("solver.prototxt", snapshot=f"{who}_iter_12.solverstate")[1], from_ours, 1e-4)


def sharing(kind: str, phase: str) -> Case:
    """Two layers of all weights in common."""
    params = " ".join(f'param {{ name: "{name}" }}' for name in "abcde"[: 3 if kind == "LSTM" else 5])
    options = f"recurrent_param {{ num_output: 3 }} {params}"
    text = layer(kind, "x m", "h", options).replace('"l"', '"one"') + layer(kind, "h m", "y", options)
    return Case(text, {"x": (4, 2, 3), "m": (4, 2)}, integers={"m": 2}, constant=("m",), phase=phase)


@pytest.mark.caffe
@pytest.mark.parametrize("kind", ["LSTM", "RNN"])
def test_shared_weights_are_those_of_caffe_in_test_and_refused_in_a_training(kind: str, tmp_path: Path) -> None:
    """Caffe's TRAIN phase computes something else: the refusal goes when this no longer holds."""
    differs = {}
    for phase in ("TEST", "TRAIN"):
        case = sharing(kind, phase)
        net = built(case)
        given = values(case, net, np.random.default_rng(1))
        given = {key: array for key, array in given.items() if not key.startswith("param:l:")}
        found, caffe = computed(case, given), run_pycaffe(tmp_path, {phase: case}, {phase: given})[phase]
        differs[phase] = difference(found["blob:y"], caffe["blob:y"])
    assert differs["TEST"] < 1e-5 and differs["TRAIN"] > 0.05
    document = prototxt.parse(sharing(kind, "TRAIN").prototxt(), kind="net")
    said = [problem.text for problem in judge_training(document, layers_of(document, TRAIN))]
    assert len(said) == (1 if kind == "LSTM" else 3) and "layer 'l': it shares 'c' with a layer above" in said[0]
    alone = sharing(kind, "TRAIN").prototxt().replace('param { name: "c" }', "param {}")
    document = prototxt.parse(alone.replace('"d"', '""').replace('"e"', '""'), kind="net")
    assert judge_training(document, layers_of(document, TRAIN)) == []


SMALL = """
layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 2 dim: 1 dim: 2 } } }
layer { name: "m" type: "Input" top: "m" input_param { shape { dim: 2 dim: 1 } } }
layer { name: "l" type: "LSTM" bottom: "x" bottom: "m" top: "h" recurrent_param { num_output: 3
  weight_filler { type: "gaussian" } bias_filler { value: 0.5 } } }
"""


def test_two_batches_are_one_long_one() -> None:
    rng = np.random.default_rng(1)
    x, marks = rng.normal(size=(4, 1, 2)).astype(np.float32), np.ones((4, 1), np.float32)
    net = Net(prototxt.parse(SMALL, kind="net"), "TEST")
    long = Net(prototxt.parse(SMALL.replace("dim: 2 dim: 1", "dim: 4 dim: 1"), kind="net"), "TEST")
    parts = [net.forward({"x": x[i : i + 2], "m": marks[:2]}).blobs["h"] for i in (0, 2)]
    near(torch.cat(parts).detach().numpy(), long.forward({"x": x, "m": marks}).blobs["h"].detach().numpy(), 1e-6, "h")
    marks[:] = 0
    again = net.forward({"x": x[2:], "m": marks[:2]}).blobs["h"]
    assert (again - parts[1]).abs().max() > 0.01


def test_multiply_adds_are_those_of_all_streams_with_a_static_input_once() -> None:
    text = (
        SMALL.replace("dim: 2 dim: 1", "dim: 5 dim: 7")
        .replace('bottom: "m"', 'bottom: "m" bottom: "s"')
        .replace(
            'layer { name: "l"',
            'layer { name: "s" type: "Input" top: "s" input_param { shape { dim: 7 dim: 4 } } }\nlayer { name: "l"',
        )
    )
    assert Net(prototxt.parse(text, kind="net"), "TEST").multiply_adds == 7 * (5 * 12 * (2 + 3) + 12 * 4)


def test_a_state_is_not_computed_anew_from_overwritten_memory() -> None:
    text = SMALL.replace(
        'layer { name: "l"',
        'layer { name: "f" type: "Reshape" bottom: "x" top: "y" '
        'reshape_param { shape { dim: 0 } } }\nlayer { name: "l"',
    ).replace("dim: 0 }", "dim: 2 dim: 1 dim: 2 }")
    text += 'layer { name: "relu" type: "ReLU" bottom: "y" top: "y" }\n'
    with pytest.raises(CaffeSplitError, match=r"layer 'l': layer 'relu' in place overwrites"):
        Net(prototxt.parse(text, kind="net"), "TRAIN")
