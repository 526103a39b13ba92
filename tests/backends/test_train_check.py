"""What stops a training before it starts: the same for all back ends, in the same words."""

from __future__ import annotations

import gzip
import shutil
from pathlib import Path

import numpy as np
import pytest

from caffe_split.backends.protocol import TrainingRequest
from caffe_split.backends.train_check import check_request
from caffe_split.backends.train_plan import NO_CHOICES, check_overwritten, plan_training
from caffe_split.backends.verify import VerifyOptions, verify
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.caffemodel import SolverState, write_solverstate, write_weights
from caffe_split.net.state import TRAIN

NET = """
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 4 dim: 3 dim: 6 dim: 6 } shape { dim: 4 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
  convolution_param { num_output: 4 kernel_size: 3 } }
layer { name: "ip" type: "InnerProduct" bottom: "conv1" top: "ip" inner_product_param { num_output: 2 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""
SOLVER = 'net: "net.prototxt"\nbase_lr: 0.1\nlr_policy: "fixed"\nmax_iter: 20\nsnapshot: 10\nsnapshot_prefix: "n"\n'
BLOBS = {
    "conv1": [np.zeros((4, 3, 3, 3)), np.zeros(4)],
    "ip": [np.zeros((2, 64)), np.zeros(2)],
}


@pytest.fixture(autouse=True)
def _files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text(SOLVER)


def refused(words: str, runs_program: bool = True, **given: str | None) -> None:
    with pytest.raises(CaffeSplitError, match=words):
        accepted(runs_program, **given)


def accepted(
    runs_program: bool = True, weights: str | None = None, snapshot: str | None = None, program: str | None = None
) -> int:
    request = TrainingRequest(Path("solver.prototxt"), weights, snapshot, None, program, NO_CHOICES)
    return check_request(request, runs_program)


def state(name: str, blobs: dict[str, list[np.ndarray]], copies: int = 1) -> str:
    write_weights(f"{name}.caffemodel", blobs)
    history = copies * [np.asarray(each, np.float32) for every in blobs.values() for each in every]
    write_solverstate(f"{name}.solverstate", SolverState(10, f"{name}.caffemodel", 0, history))
    return f"{name}.solverstate"


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"<!DOCTYPE html><html>404</html>", "this is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\noid sha256:46\nsize 2438\n", "this is a git-lfs pointer"),
        (NET.strip().encode(), "this is a prototxt"),
        (b"", "w.caffemodel: "),
    ],
)
def test_what_is_no_weights(content: bytes, words: str) -> None:
    Path("w.caffemodel").write_bytes(content)
    refused(words, weights="w.caffemodel")


def test_weights_that_do_not_fit() -> None:
    write_weights("whole.caffemodel", BLOBS)
    write_weights("part.caffemodel", {"conv1": BLOBS["conv1"], "fc8": [np.zeros(3)]})
    write_weights("other.caffemodel", {"cv": BLOBS["conv1"], "fc": BLOBS["ip"]})
    write_weights("wide.caffemodel", {**BLOBS, "ip": [np.zeros((3, 64)), np.zeros(3)]})
    data = Path("whole.caffemodel").read_bytes()
    Path("cut.caffemodel").write_bytes(data[: len(data) // 2])
    assert accepted(weights="whole.caffemodel") == accepted(weights="part.caffemodel,whole.caffemodel") == 0
    refused(
        r"none of its layers \(cv, fc\) is in net.prototxt \(conv1, ip\)", weights="whole.caffemodel,other.caffemodel"
    )
    refused(r"layer 'ip' \(line 6\) has blobs \[\(3, 64\)", weights="wide.caffemodel")
    refused("cut.caffemodel: not a whole caffemodel", weights="cut.caffemodel")
    Path("solver.prototxt").write_text(SOLVER + 'weights: "other.caffemodel"')
    refused("none of its layers")


def test_what_is_no_solver_state_of_this_net() -> None:
    assert accepted(snapshot=state("n_iter_10", BLOBS)) == 10
    refused("these are weights.*its solver state is n_iter_10.solverstate", snapshot="n_iter_10.caffemodel")
    refused("this is a solver state.*--snapshot n_iter_10.solverstate", weights="n_iter_10.solverstate")
    refused("4 blobs of history; this net under solver type Adam has 8", snapshot=adam("n_iter_10.solverstate"))
    Path("solver.prototxt").write_text(SOLVER)
    refused("none of its layers", snapshot=state("other", {"cv": BLOBS["conv1"]}))
    refused("2 blobs of history.*has 4", snapshot=state("part", {"conv1": BLOBS["conv1"]}))
    shutil.copy("n_iter_10.solverstate", "alone.solverstate")
    Path("n_iter_10.caffemodel").unlink()
    refused("its weights are n_iter_10.caffemodel, which is not there", snapshot="alone.solverstate")


def adam(snapshot: str) -> str:
    Path("solver.prototxt").write_text(SOLVER + 'type: "Adam"')
    return snapshot


def test_fields_that_nobody_reads_are_named_at_once() -> None:
    Path("solver.prototxt").write_text(SOLVER + "iter_step: 2\nwarmup_iter: 200\n")
    refused(r"solver.prototxt:7: 'iter_step' is no field of a solver; did you mean 'iter_size'\?\n.*:8: 'warmup_iter'")
    # A fork's own program may read them.
    assert accepted(program="caffe") == 0
    Path("solver.prototxt").write_text(SOLVER + 'type: "Lamb"')
    refused("there is no solver type 'Lamb'; expected SGD")
    Path("solver.prototxt").write_text(SOLVER.replace('"n"', '"nowhere/n"'))
    refused("snapshot_prefix: no folder nowhere seen from")
    Path("solver.prototxt").write_text(SOLVER.replace('"n"', '"nowhere/"'))
    refused("snapshot_prefix: no folder nowhere seen from")


@pytest.mark.parametrize("runs_program", [True, False])
def test_names_that_no_hdf5_snapshot_can_have(runs_program: bool) -> None:
    """As those of GoogLeNet: the training would end at its first snapshot."""
    Path("net.prototxt").write_text(NET.replace('name: "ip"', 'name: "in/ip"'))
    assert accepted(runs_program) == 0
    Path("solver.prototxt").write_text(SOLVER + "snapshot_format: HDF5\n")
    refused(r"snapshot_format: HDF5, and layer 'in/ip' \(line 6\) cannot be in an HDF5 file.*rename", runs_program)
    Path("net.prototxt").write_text(NET)
    assert accepted(runs_program) == 0


def test_fields_of_forks_are_for_the_engine_alone() -> None:
    Path("solver.prototxt").write_text(SOLVER + 'eval_type: "detection"\n')
    assert accepted(runs_program=False) == 0
    refused(r"Caffe does not read these fields.*\n.*:7: 'eval_type' is a field of forks, which the torch engine reads")


def test_a_solver_may_name_several_weights_at_once() -> None:
    write_weights("a.caffemodel", {"conv1": BLOBS["conv1"]})
    write_weights("b.caffemodel", {"ip": BLOBS["ip"]})
    Path("solver.prototxt").write_text(SOLVER + 'weights: "a.caffemodel, b.caffemodel"\n')
    assert accepted() == 0
    assert accepted(weights="b.caffemodel,a.caffemodel") == 0
    Path("solver.prototxt").write_text(SOLVER + 'weights: "a.caffemodel, c.caffemodel"\n')
    refused("^c.caffemodel: ")


DATA = {
    "Data": ('data_param { source: "set" batch_size: 1 }', r"no data set 'set' \(LEVELDB\)"),
    "ImageData": ('image_data_param { source: "list.txt" new_height: 4 new_width: 4 }', "no list of images 'list.txt'"),
    "HDF5Data": ('hdf5_data_param { source: "list.txt" batch_size: 1 }', "no list of HDF5 files 'list.txt'"),
    "WindowData": ('window_data_param { source: "w.txt" crop_size: 4 batch_size: 1 }', "no window file 'w.txt'"),
    "InfogainLoss": ('infogain_loss_param { source: "h.binaryproto" }', "no matrix 'h.binaryproto'"),
}


@pytest.mark.parametrize("kind", DATA)
def test_data_that_are_missing(kind: str) -> None:
    options, words = DATA[kind]
    mean = 'transform_param { mean_file: "mean.binaryproto" }' if kind != "HDF5Data" else ""
    layer = f'layer {{ name: "own" type: "{kind}" top: "data" top: "label" {mean} {options} }}'
    Path("net.prototxt").write_text(layer + NET[NET.index('layer { name: "conv1"') :])
    refused(rf"net.prototxt:1: layer 'own': {words}" + (r"\n.*layer 'own': no mean_file 'mean.b" if mean else ""))


def test_what_a_list_names_is_missing() -> None:
    rest = NET[NET.index('layer { name: "conv1"') :]
    Path("list.txt").write_text("a b.jpg 3\n")
    Path("net.prototxt").write_text(
        'layer { name: "own" type: "ImageData" top: "data" top: "label" image_data_param { source: "list.txt" } }'
        + rest
    )
    refused("layer 'own': no image 'a b.jpg', the first that 'list.txt' lists")
    Path("net.prototxt").write_text(
        'layer { name: "own" type: "HDF5Data" top: "data" top: "label" hdf5_data_param { source: "list.txt" } }' + rest
    )
    refused("layer 'own': 'list.txt' lists 3 HDF5 files that are not there, first 'a'")


def test_what_a_training_would_overwrite_is_named() -> None:
    snapshot = state("n_iter_10", BLOBS)
    state("n_iter_20", BLOBS)
    common = {"engine": "torch"}
    pytest.importorskip("torch")
    with pytest.raises(CaffeSplitError, match=r"n_iter_10.caffemodel, n_iter_20.caffemodel.*or add --force"):
        plan_training("solver.prototxt", **common)
    with pytest.raises(CaffeSplitError, match=r"earlier one: n_iter_20.caffemodel, n_iter_20.solverstate\. Choose"):
        plan_training("solver.prototxt", snapshot=snapshot, append=True, **common)
    plan = plan_training("solver.prototxt", snapshot=snapshot, force=True, append=True, **common)
    assert plan.begins == 10 and plan.append
    assert plan_training("solver.prototxt", snapshot="auto", **common).begins is None
    for path in Path().glob("n_iter_20*"):
        path.unlink()
    plan = plan_training("solver.prototxt", snapshot=snapshot, **common)
    # Another training may end between the plan and the start.
    Path("train.log").write_text("Iteration 0")
    with pytest.raises(CaffeSplitError, match="holds an earlier training"):
        check_overwritten(plan)


@pytest.mark.parametrize("options", [{}, {"force": True}, {"append": True}, {"force": True, "append": True}])
def test_a_file_that_is_no_log_is_never_taken_for_one(options: dict[str, bool]) -> None:
    pytest.importorskip("torch")
    write_weights("w.caffemodel", BLOBS)
    Path("notes").write_text("What I tried: much.\n")
    Path("t.log.gz").write_bytes(gzip.compress(b"I0305 16:47:02.008569 17823 solver.cpp:433] Iteration 0\n"))
    for name, words in (
        ("net.prototxt", "this is a net"),
        ("solver.prototxt", "this is a solver"),
        ("w.caffemodel", "these are weights"),
        ("notes", "no line of a training"),
        ("t.log.gz", "this is compressed"),
    ):
        before = Path(name).read_bytes()
        with pytest.raises(CaffeSplitError, match=rf"^{name}: ({words}).*; --log takes a training log, or a new file"):
            plan_training("solver.prototxt", engine="torch", log=name, **options)
        assert Path(name).read_bytes() == before


def test_a_log_and_what_failed_before_its_first_line_are_replaced_where_asked() -> None:
    pytest.importorskip("torch")
    for name, text in (
        ("run7", "I0305 16:47:02.008569 17823 solver.cpp:433] Initializing solver\nbase_lr: 0.1\n"),
        ("run8", "Iteration 0, lr = 0.1\n"),
        ("failed.log", "caffe: error while loading shared libraries: libglog.so.0\n"),
        ("empty", ""),
    ):
        Path(name).write_text(text)
        assert plan_training("solver.prototxt", engine="torch", log=name, force=True).log == Path(name)


def test_verify_names_the_layer_whose_data_are_missing(backend: str) -> None:
    layer = 'layer { name: "own" type: "Data" top: "data" top: "label" data_param { source: "set" backend: LMDB } }'
    Path("net.prototxt").write_text(layer + NET[NET.index('layer { name: "conv1"') :])
    write_weights("w.caffemodel", BLOBS)
    options = VerifyOptions(state=TRAIN, engine=backend)
    with pytest.raises(CaffeSplitError, match=r"net.prototxt:1: layer 'own': no data set 'set' \(LMDB\)"):
        verify(
            "net.prototxt",
            "net.prototxt",
            baseline_weights="w.caffemodel",
            derived_weights="w.caffemodel",
            options=options,
        )


def test_a_wrong_directory_is_told_where_the_paths_hold(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "nets").mkdir()
    Path("net.prototxt").rename("nets/net.prototxt")
    Path("nets/solver.prototxt").write_text(SOLVER.replace("net.pro", "nets/net.pro"))
    Path("train.log").write_text("a good log")
    monkeypatch.chdir(tmp_path / "nets")
    with pytest.raises(CaffeSplitError, match=rf"change to {tmp_path}, where it is, and give nets/solver.prototxt"):
        plan_training("solver.prototxt", engine="torch", log="../train.log", force=True)
    assert Path("../train.log").read_text() == "a good log"
