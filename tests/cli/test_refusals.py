"""What a user does wrong is told in a line: what was found, and what to do."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.backends.caffe import lmdbs
from caffe_split.backends.caffe.backend import Caffe
from caffe_split.backends.protocol import TrainingRequest
from caffe_split.backends.train_plan import NO_CHOICES
from caffe_split.data.leveldb import LevelDb
from caffe_split.data.store import write_records
from caffe_split.errors import CaffeSplitError
from caffe_split.net.state import TEST
from tests.support import ROOT, caffe_split

NET = """layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1"
        convolution_param { num_output: 4 kernel_size: 3 } }
"""


TRAINED = """layer { name: "data" type: "DummyData" top: "data" top: "label"
        dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    Path("net.prototxt").write_text(NET)
    Path("solver.prototxt").write_text('net: "net.prototxt"\nmax_iter: 100\nbase_lr: 0.1\nlr_policy: "fixed"\n')
    for name in ("w.caffemodel", "w_iter_5.caffemodel"):
        cs.write_weights(name, {"conv1": [np.ones((4, 3, 3, 3)), np.ones(4)]})
    Path("run").mkdir()
    (tmp_path / "run/train.log").write_bytes((ROOT / "tests/trainlog/logs/bvlc_1_0.log").read_bytes())
    Path("lone").mkdir()
    Path("lone/net.prototxt").write_text(NET)
    Path("mine").mkdir()
    Path("mine/thesis.tex").write_text("mine")
    return tmp_path


VERIFY = ("verify", "net.prototxt", "net.prototxt")
DERIVE = ("make-derived", "net.prototxt", "--weights", "w.caffemodel", "--layers", "conv1", "--partition", "random:0")


@pytest.mark.parametrize(
    ("words", "status", "said"),
    [
        (
            ("tpm", "run"),
            1,
            "run: this is a folder; give a net, a solver, a training log or snapshots in it, for example ",
        ),
        (("tpm", "mine"), 1, "mine: this is a folder; give a net, a solver, a training log or snapshots in it."),
        (
            VERIFY,
            1,
            "net.prototxt: no manifest.json beside it, so make-derived or fold did not write it. Is it the BASELINE?",
        ),
        (
            (*VERIFY, "--input", "x.npy", "--baseline-weights", "w.caffemodel", "--derived-weights", "w.caffemodel"),
            1,
            "x.npy: cannot read it: No such file or directory",
        ),
        ((*DERIVE, "--out", "mine"), 1, "mine exists and is no folder that caffe-split wrote: it has no manifest.json"),
        ((*DERIVE, "--out", "."), 1, ". exists and is no folder that caffe-split wrote: it has no manifest.json"),
        ((*DERIVE, "--out", "/"), 1, "/ exists and is no folder that caffe-split wrote: it has no manifest.json"),
        ((*DERIVE, "--out", ""), 2, "an empty value behind --out; give a value, or leave it out. Is a variable of"),
        ((*DERIVE, "--deploy="), 2, "an empty value behind --deploy; give a value, or leave it out."),
        (("table", "x.log", "--csv", ""), 2, "an empty value behind --csv; give"),
        (("data", "digits", "--out", ""), 2, "an empty value behind --out; give"),
        (("fold", "net.prototxt", ""), 2, "an empty value as an argument; give a value, or leave it out. Is a"),
        (("fold", "--", "net.prototxt", ""), 2, "an empty value as an argument; give a value"),
        (("best", "-n", "", "x.log"), 2, "an empty value behind -n; give a value"),
        ((*DERIVE, "--out", "mine", "--force"), 1, "mine is no folder that caffe-split wrote: it has no manifest.json"),
        (
            (*DERIVE, "--out", "net.prototxt"),
            1,
            "net.prototxt exists and is not a folder; it is not replaced. Move it away, or choose another --out.",
        ),
        (("test", "net.prototxt", "w.caffemodel", "--scale", "x"), 2, "'x' is not a valid number."),
        (("multisplit", "solver.prototxt", "--iter", "1e3"), 2, "'1e3' is not a valid integer"),
        (
            ("instrument", "lone/net.prototxt", "--window", "0:99999999999999"),
            1,
            "0:99999999999999 ends after iteration 2147",
        ),
        (DERIVE[:4], 2, "list:... or all"),
        (
            (*DERIVE, "--skip-pool", "average"),
            2,
            "--skip-pool is for --kind skip and identity; a split of kind residual",
        ),
        (
            (*DERIVE, "--kind", "skip", "--residual-activation", "relu"),
            2,
            "--residual-activation is for --kind residual",
        ),
        (
            ("table", "run", "--csv", "x", "--cost", "--sort", "best"),
            2,
            "in place of the table: leave out --sort, --cost.",
        ),
        (("table", "run", "--series", "x", "--json"), 2, "leave out --json."),
        (("test", "net.prototxt", "w.caffemodel", "--force"), 2, "no file is written: leave out --force."),
        (("test", "net.prototxt", "w.caffemodel", "--image", "a.png", "--force"), 2, "leave out --force."),
        (
            ("test", "net.prototxt", "w.caffemodel", "--confusion", "a.csv", "--confusion", "./a.csv"),
            2,
            "--confusion names a file twice.",
        ),
        (("tpm", "run/train.log", "--force"), 2, "without --csv and --plot no file is written: leave out --force."),
        (
            ("instrument", "net.prototxt", "--remove", "--in-place", "--force"),
            2,
            "lets --out replace a file: leave out",
        ),
        (("tpm", "run/train.log", "--stage", "a"), 2, "a log is read without a net: leave out --stage."),
        (("tpm", "run/train.log", "--iter", "5"), 2, "other windows, which need snapshots: leave out --iter."),
        (
            ("tpm", "w_iter_5.caffemodel", "--caffe-proto", "x"),
            2,
            "snapshots are read without a net: leave out --caffe-proto.",
        ),
        (("tpm", "w_iter_5.caffemodel", "--engine", "torch"), 2, "without --scores no net is run: leave out --engine."),
        (("tpm", "solver.prototxt", "--calibrate", "5"), 2, "without --scores no net is run: leave out --calibrate."),
        (("tpm", "--suggest-window", "run", "--csv", "x.csv"), 2, "reads a log's loss: leave out --csv."),
        (("tpm", "solver.prototxt", "--scores", "--momentum", "0"), 2, "a report of its own: leave out --momentum."),
        (("tpm", "solver.prototxt", "--interval", "7"), 2, "an interval belongs to a window"),
        (("tpm", "w_iter_5.caffemodel", "--interval", "7"), 2, "an interval chooses among several snapshots"),
        (
            ("instrument", "net.prototxt", "--remove", "--interval", "1"),
            2,
            "takes TPM layers out: leave out --interval.",
        ),
        (("fold", "net.prototxt", "w.caffemodel", "--no-verify", "--batches", "2"), 2, "nothing: leave out --batches."),
        (("export", "net.prototxt", "w.caffemodel", "--check", "0", "--seed", "2"), 2, "nothing: leave out --seed."),
        (("summary", "net.prototxt", "net.prototxt", "--changes", "--csv"), 2, "have every layer: leave out --csv."),
        (("multisplit", "solver.prototxt", "--dry-run", "--json"), 2, "has no outcome: leave out --json."),
        (("data", "lmdb", "nope", "--out", "x"), 1, "nope: no LevelDB seen from "),
        (("data", "cifar10", "--from", "nope"), 1, "caffe-split: nope"),
    ],
)
def test_it_is_said_in_a_line(here: Path, words: tuple[str, ...], status: int, said: str) -> None:
    before = sorted(path.read_bytes() for path in here.rglob("*") if path.is_file())
    found = caffe_split(*words, cwd=here, status=status)
    assert said in found.stderr, found.stderr
    assert status == 2 or (found.stderr.count("\n") == 1 and found.stderr.startswith("caffe-split: ")), found.stderr
    assert sorted(path.read_bytes() for path in here.rglob("*") if path.is_file()) == before


def test_what_helps_is_named(here: Path) -> None:
    lines = caffe_split("instrument", "lone/net.prototxt", "--window", "0:1", cwd=here).stderr
    assert "choose a longer window" in lines and "smaller interval" not in lines
    Path("slip.prototxt").write_text(NET.replace('"Convolution"', '"Convolutio"'))
    said = caffe_split("summary", "slip.prototxt", cwd=here).stdout
    assert "the type is not one of Caffe's own; did you mean Convolution?" in said
    Path("solver.prototxt").write_bytes('net: "äö.prototxt"\n'.encode("latin-1"))
    said = caffe_split("summary", "solver.prototxt", cwd=here, status=1).stderr
    assert 'net is "äö.prototxt" (in Latin-1: the solver is not in UTF-8), which is not there' in said
    assert "caffe-split: run/train.log" in caffe_split("tpm", "--suggest-window", "run", cwd=here, status=1).stderr
    printed = caffe_split("instrument", "lone/net.prototxt", "--window", "0:9", "--out", "-", cwd=here).stdout
    assert "tpm_param" in printed and not Path("-").exists()
    one = NET.splitlines()[0]
    Path("one.prototxt").write_text(one)
    assert "1 layer " in caffe_split("summary", "one.prototxt", cwd=here).stdout


@pytest.mark.parametrize("command", ["test", "extract", "verify", "train"])
def test_help_shows_no_bounds_where_there_are_none(command: str, tmp_path: Path) -> None:
    said = caffe_split(command, "--help", cwd=tmp_path).stdout
    assert "None" not in said and "RANGE" not in said


def test_a_training_of_no_iterations_is_noted(here: Path) -> None:
    pytest.importorskip("torch")
    Path("net.prototxt").write_text(TRAINED)
    Path("solver.prototxt").write_text(
        'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" snapshot_after_train: false'
    )
    said = caffe_split("train", "solver.prototxt", "--engine", "torch", cwd=here).stderr
    assert "note: max_iter of solver.prototxt is 0: nothing was trained" in said


def test_an_lmdb_is_no_leveldb(here: Path) -> None:
    write_records(here / "set", iter([b"1"]))
    with pytest.raises(CaffeSplitError, match="set: this is an LMDB already"):
        LevelDb("set")


def test_an_lmdb_whose_lock_caffe_may_not_write_is_named(here: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_records(here / "set", iter([b"1"]))
    net = 'layer { name: "own" type: "Data" top: "data" data_param { source: "set" backend: LMDB } }\n'
    Path("net.prototxt").write_text(net + NET.partition("\n")[2])
    document = cs.open_training("net.prototxt").net
    lmdbs.check_lmdbs([(document, TEST)])
    # The tests may run as root, who may write everywhere.
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(
        CaffeSplitError, match=r"net.prototxt:1: layer 'own': Caffe cannot open the LMDB set: it writes "
    ):
        lmdbs.check_lmdbs([(document, TEST)])
    monkeypatch.setattr("caffe_split.backends.caffe.backend.find_caffe", lambda _: "caffe")
    with pytest.raises(CaffeSplitError, match="or use --engine torch"):
        Caffe().training(TrainingRequest(Path("solver.prototxt"), None, None, None, None, NO_CHOICES))
