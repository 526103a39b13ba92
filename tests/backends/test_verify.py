"""Two nets on the same input: in every back end, on data, noise and arrays; and what is refused."""

from __future__ import annotations

import json
import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.backends.choose import get_backend
from caffe_split.formats.weights import caffemodel
from tests.support import caffe_split

needs_torch = pytest.mark.skipif(
    not get_backend("torch").is_there(), reason="PyTorch is not installed: ./tools/environment --torch"
)
ENGINES = ["opencv", pytest.param("torch", marks=needs_torch), pytest.param("caffe", marks=pytest.mark.caffe)]
DEPLOY, DERIVED = "digits/deploy.prototxt", "d/deploy.prototxt"


@pytest.fixture
def pair(digits: Path) -> Path:
    caffe_split(
        "make-derived",
        "digits/solver.prototxt",
        "--iter",
        100,
        "--num-splits",
        3,
        "--kind",
        "residual",
        "--deploy",
        DEPLOY,
        "--out",
        "d",
        cwd=digits,
    )
    return digits


def blobs(folder: Path, *options: object, status: int = 0) -> dict[str, dict[str, float]]:
    result = caffe_split("verify", DEPLOY, DERIVED, "--json", *options, cwd=folder, status=status)
    return {row["blob"]: row for row in json.loads(result.stdout)["blobs"]}


def test_opencv_sees_the_same_blobs(pair: Path, backend: str) -> None:
    """OpenCV's reader is neither Caffe's nor ours: it shows that what we write is Caffe's format."""
    ours, theirs = blobs(pair, "--engine", backend), blobs(pair, "--engine", "opencv")
    assert set(theirs) == set(ours) - {"data"} and len(theirs) > 10
    for name, row in theirs.items():
        assert row["scale"] == pytest.approx(ours[name]["scale"], rel=1e-4)
        assert row["relative"] < 1e-4
        assert row["is_output"] == ours[name]["is_output"]


@needs_torch
@pytest.mark.caffe
@pytest.mark.parametrize("phase", ["TEST", "TRAIN"])
def test_the_torch_engine_and_caffe_see_the_same_blobs(pair: Path, phase: str) -> None:
    """On data, and with the batch's own statistics too."""
    nets = ("digits/train_val.prototxt", "d/train_val.prototxt", "--phase", phase, "--batches", 3)
    ours, theirs = (
        json.loads(caffe_split("verify", *nets, "--json", "--engine", engine, cwd=pair).stdout)
        for engine in ("torch", "caffe")
    )
    assert (ours["engine"], theirs["engine"]) == ("torch", "caffe") and ours["passed"]
    assert [row["blob"] for row in ours["blobs"]] == [row["blob"] for row in theirs["blobs"]]
    for row, other in zip(ours["blobs"], theirs["blobs"]):
        assert row["scale"] == pytest.approx(other["scale"], rel=1e-4) and row["is_output"] == other["is_output"]


@pytest.mark.parametrize("engine", ENGINES)
def test_a_changed_weight_is_found_where_it_acts(pair: Path, engine: str) -> None:
    path = pair / "d/init.caffemodel"
    weights = caffemodel.read_weights(path)
    copy = {name: [np.array(blob) for blob in weights[name]] for name in weights}
    copy["res3_conv2" if "res3_conv2" in copy else "res3_conv2_split1"][0][...] += 0.5
    caffemodel.write_weights(path, copy)
    rows = blobs(pair, "--engine", engine, status=1)
    assert rows["res2"]["relative"] < 1e-4 < rows["res3"]["relative"]


@pytest.mark.parametrize("engine", ENGINES)
def test_an_array_serves_as_input(pair: Path, engine: str) -> None:
    images = np.random.default_rng(5).normal(size=(3, 1, 8, 8)).astype(np.float32)
    np.save(pair / "images.npy", images)
    rows = blobs(pair, "--engine", engine, "--input", "images.npy")
    np.save(pair / "images.npy", 100 * images)
    larger = blobs(pair, "--engine", engine, "--input", "images.npy")
    np.savez(pair / "images.npz", data=100 * images)
    assert blobs(pair, "--engine", engine, "--input", "images.npz") == larger
    assert larger["conv1"]["scale"] > 10 * rows["conv1"]["scale"]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["digits/train_val.prototxt", "d/train_val.prototxt", "--engine", "opencv"], "is a Data layer; OpenCV runs"),
        ([DEPLOY, DERIVED, "--engine", "opencv", "--phase", "TRAIN"], "OpenCV runs the TEST phase only"),
        ([DEPLOY, DERIVED, "--input", "none.npy"], "none.npy: cannot read it: No such file"),
        ([DEPLOY, DERIVED, "--input", "none.npz"], "none.npz: cannot read it: No such file"),
        ([DEPLOY, DERIVED, "--input", "other.npz"], "other.npz: it holds 'x'; the inputs of "),
        (
            [DEPLOY, DERIVED, "--input", "digits/solver.prototxt"],
            "solver.prototxt: this is a solver; --input takes an array of NumPy (.npy or .npz)",
        ),
        (
            ["digits/train_val.prototxt", "d/train_val.prototxt", "--input", "zeros.npy"],
            "it has no input for the array of zeros.npy",
        ),
        ([DEPLOY, DERIVED, "--derived-weights", "digits/digits_iter_100.caffemodel"], "which d/deploy.prototxt does"),
        ([DEPLOY, DERIVED, "--baseline-weights", "d/init.caffemodel"], "which digits/deploy.prototxt does not have"),
        ([DEPLOY, "digits/deploy.prototxt"], "give --baseline-weights"),
    ],
)
def test_what_cannot_be_compared_is_refused_in_one_line(pair: Path, arguments: list[str], message: str) -> None:
    np.save(pair / "zeros.npy", np.zeros((2, 1, 8, 8)))
    np.savez(pair / "other.npz", x=np.zeros((2, 1, 8, 8)))
    result = caffe_split("verify", *arguments, cwd=pair, status=1)
    assert re.search(re.escape(message), result.stderr), result.stderr
    assert result.stderr.count("\n") == 1


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_rows_that_are_shuffled_come_alike_to_both_nets(engine: str, tmp_path: Path) -> None:
    """Caffe's HDF5Data shuffles by numbers that go on from one net of a process to the next."""
    h5py = pytest.importorskip("h5py")
    with h5py.File(tmp_path / "rows.h5", "w") as file:
        file["data"] = np.random.default_rng(0).normal(size=(64, 3, 8, 8)).astype(np.float32)
    (tmp_path / "list.txt").write_text("rows.h5\n")
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "HDF5Data" top: "data" '
        'hdf5_data_param { source: "list.txt" batch_size: 16 shuffle: true } }\n'
        'layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" '
        "convolution_param { num_output: 4 kernel_size: 3 } }\n"
    )
    weights = {"conv": [np.random.default_rng(1).normal(size=(4, 3, 3, 3)), np.zeros(4)]}
    caffemodel.write_weights(tmp_path / "w.caffemodel", weights)
    options = ("--layers", "conv", "--weights", "w.caffemodel", "--partition", "random:0", "--out", "d")
    caffe_split("make-derived", "net.prototxt", *options, cwd=tmp_path)
    given = ("verify", "net.prototxt", "d/net.prototxt", "--baseline-weights", "w.caffemodel", "--engine", engine)
    assert "same function: " in caffe_split(*given, "--batches", 3, cwd=tmp_path).stdout


def test_opencv_refuses_layers_that_compute_as_in_training(tmp_path: Path) -> None:
    """It does not read a layer's own phase, so that any two such nets would be the same to it."""
    pytest.importorskip("cv2", reason="OpenCV is not installed: pip install opencv-python-headless")
    data = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 } } }\n'
    (tmp_path / "net.prototxt").write_text(
        data
        + 'layer { name: "scale" type: "Scale" bottom: "data" top: "s" }\n'
        + 'layer { name: "drop" type: "Dropout" bottom: "s" top: "d" phase: TRAIN }\n'
    )
    caffemodel.write_weights(tmp_path / "w.caffemodel", {"scale": [np.ones(3)]})
    weights = ("--baseline-weights", "w.caffemodel", "--derived-weights", "w.caffemodel")
    given = ("verify", "net.prototxt", "net.prototxt", *weights, "--engine", "opencv")
    said = caffe_split(*given, cwd=tmp_path, status=1).stderr
    assert "layer 'drop' (line 3) has a phase: TRAIN of its own, which OpenCV does not read" in said


SPLIT = """
layer {{ name: "x" type: "Input" top: "x" input_param {{ shape {{ dim: 2 dim: 3 dim: 4 dim: 4 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "x" top: "y" inner_product_param {{ num_output: 4 }} }}
layer {{ name: "abs" type: "AbsVal" bottom: "y" top: "abs" }}
layer {{ name: "split" type: "Split" bottom: "y" top: "a" top: "b" }}
layer {{ name: "relu" type: "ReLU" bottom: "a" top: "a" relu_param {{ negative_slope: {} }} }}
"""


@pytest.mark.parametrize("engine", ENGINES[1:])
def test_splits_that_the_net_has_itself_count(tmp_path: Path, engine: str) -> None:
    for name, slope in (("one", 0), ("other", 5)):
        (tmp_path / f"{name}.prototxt").write_text(SPLIT.format(slope))
    blobs = {"ip": [np.random.default_rng(0).normal(size=(4, 48)), np.zeros(4)]}
    caffemodel.write_weights(tmp_path / "w.caffemodel", blobs)
    words = ("--baseline-weights", "w.caffemodel", "--derived-weights", "w.caffemodel", "--engine", engine, "--json")
    result = caffe_split("verify", "one.prototxt", "other.prototxt", *words, cwd=tmp_path, status=1)
    rows = json.loads(result.stdout)["blobs"]
    # Caffe puts a Split of its own behind y, whose tops are none of the net's blobs.
    assert [row["blob"] for row in rows] == ["x", "y", "abs", "a", "b"]
    assert [row["blob"] for row in rows if row["relative"] > 0.01] == ["y", "a", "b"]
    assert [row["blob"] for row in rows if row["is_output"]] == ["abs", "a", "b"]
