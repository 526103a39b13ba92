"""`caffe-split tpm` as a user runs it, on what the real Caffe wrote."""

from __future__ import annotations

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.support import CAFFE, Trained, caffe_split, train

pytestmark = pytest.mark.caffe
SOLVER = "digits/solver.prototxt"


def test_report(trained: Trained) -> None:
    lines = caffe_split("tpm", SOLVER, "--kernels", cwd=trained.folder).stdout.splitlines()
    assert lines[0].startswith("TPM over iterations 0 to 100: N = 10 steps of 10, momentum 0.9; pure noise would give ")
    assert re.fullmatch(r"Mean TPM ratio entropy = \d\.\d{6}", lines[1])
    entropies = [re.fullmatch(r"\('(\w+)', (16|32), (\d+)\) (\d\.\d+)", line) for line in lines[2:11]]
    assert all(entropies) and len({match[1] for match in entropies if match}) == 9
    values = [float(match[4]) for match in entropies if match]
    assert values == sorted(values, reverse=True)
    assert sum(values) / 9 == pytest.approx(float(lines[1].split("= ")[1]), abs=1e-6)
    form = r"\(\(0, 100\), \('\w+', 0\.\d{6}\)\) norm \d+\.?\d* -> \d+\.?\d*"
    assert lines[11] == "" and all(re.fullmatch(form, line) for line in lines[12:21])
    assert lines[22].split() == ["layer", "kernel", "TPM", "z"]
    assert len(lines) == 23 + 16 * 3 + 32 * 6


def test_windows_csv_json_and_picture(digits: Path) -> None:
    windows = ["--window", "10:50", "--window", "50:90"]
    shown = caffe_split("tpm", SOLVER, *windows, "--csv", "k.csv", "--plot", "k.svg", cwd=digits)
    assert [line.split(":")[0] for line in shown.stdout.splitlines()[:2]] == [
        "TPM over iterations 10 to 50",
        "TPM over iterations 50 to 90",
    ]
    with open(digits / "k.csv", newline="") as stream:
        rows = list(csv.DictReader(stream))
    assert len(rows) == 2 * (9 + 16 * 3 + 32 * 6)
    values = json.loads(caffe_split("tpm", SOLVER, *windows, "--json", cwd=digits).stdout)
    assert [value["window"] for value in values] == [[10, 50]] * 9 + [[50, 90]] * 9
    whole = [row for row in rows if row["kernel"] == ""]
    assert [float(row["tpm"]) for row in whole] == [value["layer_tpm"] for value in values]
    assert "((50, 90), ('conv1', " in shown.stdout and f"{values[9]['layer_tpm']:.6f}" in shown.stdout
    assert (digits / "k.svg").read_bytes().startswith(b"<?xml")
    before = (digits / "k.svg").read_bytes()
    for option, name in (("--plot", "k.svg"), ("--csv", "k.csv")):
        refused = caffe_split("tpm", SOLVER, option, name, cwd=digits, status=1)
        assert f"{name} exists; nothing is overwritten unasked" in refused.stderr
    assert (digits / "k.svg").read_bytes() == before
    caffe_split("tpm", SOLVER, "--plot", "k.svg", "--force", cwd=digits)
    assert (digits / "k.svg").read_bytes() != before
    refused = caffe_split("tpm", SOLVER, "--plot", "k.gif", cwd=digits, status=1)
    assert "must end in .png, .svg, .pdf" in refused.stderr
    solver = (digits / SOLVER).read_bytes()
    refused = caffe_split("tpm", SOLVER, "--csv", SOLVER, "--force", cwd=digits, status=1)
    assert "must end in .csv" in refused.stderr and (digits / SOLVER).read_bytes() == solver


def test_windows_of_different_n_are_noted(trained: Trained) -> None:
    shown = caffe_split("tpm", SOLVER, "--window", "10:50", "--window", "50:70", cwd=trained.folder)
    assert "differ in N or interval" in shown.stderr
    shown = caffe_split("tpm", SOLVER, "--window", "10:50", "--window", "50:90", cwd=trained.folder)
    assert "differ" not in shown.stderr


def test_snapshots_by_prefix_and_pattern(trained: Trained) -> None:
    solver = caffe_split("tpm", SOLVER, "--window", "10:100", "--json", cwd=trained.folder).stdout
    for source in ("digits/digits", "digits/digits_iter_*"):
        alone = caffe_split("tpm", source, "--momentum", "0.9", "--json", cwd=trained.folder)
        assert json.loads(alone.stdout) == json.loads(solver) and alone.stderr == ""
    shown = caffe_split("tpm", "digits/digits", "--window", "20:80", "--interval", 20, cwd=trained.folder)
    assert shown.stdout.startswith("TPM over iterations 20 to 80: N = 3 steps of 20, momentum 0; ")
    assert "without a solver momentum is taken as 0" in shown.stderr
    # One snapshot tells what its TPM layers saw.
    one = caffe_split("tpm", "digits/digits_iter_50.caffemodel", "--momentum", "0.9", "--json", cwd=trained.folder)
    state = caffe_split("tpm", SOLVER, "--iter", 50, "--json", cwd=trained.folder)
    assert json.loads(one.stdout) == json.loads(state.stdout)


def test_log_alone(digits: Path, trained: Trained) -> None:
    (digits / "train.log").write_text(trained.log)
    shown = caffe_split("tpm", "train.log", "--plot", "log.png", "--csv", "log.csv", cwd=digits)
    lines = shown.stdout.splitlines()
    assert lines[0].startswith("TPM over iterations 0 to 80: N = 8 steps of 10, momentum 0.9; pure noise would give")
    assert len(lines) == 1 + 9 + 1 + 1 + 9
    assert lines[11].split() == ["iteration", "20", "40", "60", "80"]
    assert lines[1].startswith("((0, 80), ('conv1', ")
    # What the layer printed at 80 is what the snapshots say: the weights up to then.
    (conv1,) = json.loads(caffe_split("tpm", "train.log", "--layers", "conv1", "--json", cwd=digits).stdout)
    (state,) = json.loads(caffe_split("tpm", SOLVER, "--iter", 80, "--layers", "conv1", "--json", cwd=digits).stdout)
    assert conv1["tpm"][conv1["iteration"].index(80)] == pytest.approx(state["layer_tpm"], rel=1e-4)
    assert conv1["null"][conv1["iteration"].index(80)] == pytest.approx(state["null"])
    with open(digits / "log.csv", newline="") as stream:
        assert len(list(csv.DictReader(stream))) == 9 * 5
    assert (digits / "log.png").read_bytes().startswith(b"\x89PNG")
    used = caffe_split("tpm", "train.log", "--window", "0:50", cwd=digits, status=2)
    assert "need snapshots: leave out --window" in used.stderr


def test_suggest_window(digits: Path, trained: Trained) -> None:
    (digits / "train.log").write_text(trained.log)
    shown = caffe_split("tpm", "--suggest-window", "train.log", cwd=digits).stdout.splitlines()
    assert shown[0].startswith("0:60  the loss falls fastest: by ")
    assert shown[-1] == "caffe-split instrument NET --window 0:60 --interval 1"
    assert json.loads(caffe_split("tpm", "--suggest-window", "train.log", "--json", cwd=digits).stdout)[0]["stop"] == 60
    refused = caffe_split("tpm", "--suggest-window", SOLVER, cwd=digits, status=1)
    assert "is no training log" in refused.stderr


def test_hdf5_snapshots_tell_the_same(digits: Path) -> None:
    """Caffe leaves the weight that the TPM layer shares out of them."""
    binary, hdf5 = digits, digits.parent / "hdf5"
    shutil.copytree(binary / "digits", hdf5 / "digits", ignore=shutil.ignore_patterns("*_iter_*"))
    shutil.copytree(binary / "data", hdf5 / "data")
    text = (hdf5 / SOLVER).read_text()
    (hdf5 / SOLVER).write_text(text.replace("max_iter: 100", "max_iter: 30") + "snapshot_format: HDF5\n")
    assert CAFFE.exists()
    train(SOLVER, hdf5)
    assert (hdf5 / "digits/digits_iter_30.caffemodel.h5").exists()
    for arguments in (["--iter", 30], ["--iter", 20], ["--window", "10:30"]):
        one = json.loads(caffe_split("tpm", SOLVER, *arguments, "--json", cwd=binary).stdout)
        other = json.loads(caffe_split("tpm", SOLVER, *arguments, "--json", cwd=hdf5).stdout)
        assert one == other and len(one) == 9


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([SOLVER, "--window", "40000:50000"], "ends after the training, whose max_iter is 100"),
        ([SOLVER, "--window", "10:90", "--interval", 100], "does not hold two samples 100 iterations apart"),
        ([SOLVER, "--window", "10:90", "--interval", 7], "not 7 iterations apart"),
        ([SOLVER, "--iter", 77], "no snapshot of iteration 77"),
        ([SOLVER, "--layers", "conv9"], "no convolution 'conv9'. Its convolutions: conv1, "),
        (["digits/nothing"], "no such file, and no snapshots digits/nothing_iter_N"),
        (["digits/digits_iter_*.solverstate"], "no snapshot .* is called so"),
        (["digits/digits", "--window", "0:100"], "there is none of iteration 0"),
        (["digits/digits", "--layers", "conv9"], "no weights of layer 'conv9' in it; it has those of conv1"),
        (["digits/digits_iter_50.solverstate"], "solverstate"),
    ],
)
def test_what_cannot_be_measured(trained: Trained, arguments: list, message: str) -> None:
    refused = caffe_split("tpm", *arguments, cwd=trained.folder, status=1)
    assert re.search(message, refused.stderr), refused.stderr
    assert len(refused.stderr.splitlines()) == 1 and refused.stdout == ""


def test_series_with_another_nets_snapshot(digits: Path) -> None:
    from caffe_split.formats.weights import caffemodel

    path = digits / "digits/digits_iter_50.caffemodel"
    weights = {name: list(blobs) for name, blobs in caffemodel.read_weights(path).items()}
    weights["conv1"] = [weights["conv1"][0][:8].copy()]
    caffemodel.write_weights(path, weights)
    refused = caffe_split("tpm", SOLVER, "--window", "10:90", cwd=digits, status=1)
    assert "digits_iter_50.caffemodel: layer 'conv1' has shape (8, 1, 3, 3), but (16, 1, 3, 3)" in refused.stderr
    path.unlink()
    refused = caffe_split("tpm", SOLVER, "--window", "10:90", cwd=digits, status=1)
    assert "those of 50 are missing" in refused.stderr


def test_window_not_yet_sampled(digits: Path) -> None:
    (digits / SOLVER).write_text((digits / SOLVER).read_text().replace("max_iter: 100", "max_iter: 20"))
    for path in (digits / "digits").glob("*_iter_*"):
        path.unlink()
    net = "digits/train_val.prototxt"
    text = (digits / net).read_text()
    (digits / net).write_text(text.replace("start_iter: 0", "start_iter: 50"))
    train(SOLVER, digits)
    refused = caffe_split("tpm", SOLVER, cwd=digits, status=1)
    assert "its TPM layers look from 50 to 100. Choose an --iter after two samples" in refused.stderr


def test_norms_of_earlier_windows_come_from_snapshots(digits: Path) -> None:
    """A layer's state keeps the weights of its latest window alone."""
    for path in (digits / "digits").glob("*_iter_*"):
        path.unlink()
    (digits / SOLVER).write_text((digits / SOLVER).read_text().replace("max_iter: 100", "max_iter: 30"))
    net = "digits/train_val.prototxt"
    caffe_split("instrument", net, "--remove", "--in-place", cwd=digits)
    windows = ["--window", "0:10", "--window", "10:20", "--window", "20:30"]
    refused = caffe_split("instrument", net, *windows, "--in-place", "--layers", "conv1,fc", cwd=digits, status=1)
    assert "no convolution 'fc'" in refused.stderr
    caffe_split("instrument", net, *windows, "--interval", 5, "--in-place", "--layers", "conv1", cwd=digits)
    train(SOLVER, digits)
    shown = caffe_split("tpm", SOLVER, cwd=digits).stdout.splitlines()
    lines = [line for line in shown if line.startswith("((")]
    assert [line.split(", (")[0] for line in lines] == ["((0, 10)", "((10, 20)", "((20, 30)"]
    norms = [line.split("norm ")[1].split(" -> ") for line in lines]
    assert norms[0][0] == "unknown", "there is no snapshot of iteration 0"
    assert norms[0][1] == norms[1][0] and norms[1][1] == norms[2][0]
    # Without the snapshots nobody knows.
    (digits / "digits/digits_iter_10.caffemodel").unlink()
    shown = caffe_split("tpm", SOLVER, cwd=digits).stdout
    assert "norm unknown -> unknown" in shown and shown.count("unknown") == 3
