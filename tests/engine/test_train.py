"""`train --engine torch` as a user meets it: its log, its end, and every mistake in one line."""

from __future__ import annotations

import importlib.util
import io
import re
import signal
import subprocess
import sys
import time
from datetime import datetime
from pathlib import Path

import numpy as np
import pytest

from caffe_split.backends.choose import get_backend
from caffe_split.data.store import write_store
from caffe_split.engine.log import Log
from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog import read_log
from tests.engine.runs import numbers, ours, write_training
from tests.support import caffe_split, start_process

needs_torch = pytest.mark.skipif(
    importlib.util.find_spec("torch") is None, reason="PyTorch is not installed: ./tools/environment --torch"
)
FIXED = 'base_lr: 0.01 momentum: 0.9 lr_policy: "fixed"'


def refused(folder: Path, *words: object) -> str:
    """What `train --engine torch` says before it gives up; nothing may have been started."""
    said = caffe_split("train", "solver.prototxt", "--engine", "torch", *words, cwd=folder, status=1).stderr
    assert not (folder / "train.log").exists()
    return said


def failed(folder: Path, *words: object) -> str:
    """What it says of a training that has begun."""
    words = ("--engine", "torch", "--threads", 1, "--force", *words)
    return caffe_split("train", "solver.prototxt", *words, cwd=folder, status=1).stderr


def here(folder: Path, monkeypatch: pytest.MonkeyPatch, **options: int) -> str:
    """The same training without a process of its own; its log."""
    import torch

    torch.set_num_threads(1)
    monkeypatch.chdir(folder)
    return ours("solver.prototxt", **options)[1]


def edit(path: Path, *changes: tuple[str, str]) -> None:
    text = path.read_text()
    for old, new in changes:
        assert old in text
        text = text.replace(old, new)
    path.write_text(text)


@needs_torch
def test_trains_logs_and_resumes(tmp_path: Path) -> None:
    write_training(tmp_path, f"{FIXED} snapshot: 6", 12)
    said = caffe_split("train", "solver.prototxt", "--engine", "torch", "--threads", 1, cwd=tmp_path).stderr
    assert "engine torch" in said and "caffe_split.engine solver.prototxt" in said and "done" in said
    log = read_log(tmp_path / "train.log")
    assert [run.state for run in log.runs] == ["done"]
    # glog's prefix of today, which others' scripts read by column: level and date, time, process, file and line.
    stamps = re.findall(
        r"^I(\d{8}) \d\d:\d\d:\d\d\.\d{6} \d+ engine\.py:\d+\] Iteration",
        (tmp_path / "train.log").read_text(),
        re.MULTILINE,
    )
    assert len(stamps) > 20 and all(abs((datetime.now() - datetime.strptime(day, "%Y%m%d")).days) < 2 for day in stamps)
    assert log.table("displays").iteration.tolist() == [*range(12), 12]
    assert log.table("tests").iteration.tolist() == [0, 6, 12]
    assert "accuracy" in caffe_split("best", "train.log", cwd=tmp_path).stdout
    again = ("--snapshot", "ours_iter_6.solverstate", "--log", "again.log", "--force")
    caffe_split("train", "solver.prototxt", "--engine", "torch", "--threads", 1, *again, cwd=tmp_path)
    assert read_log(tmp_path / "again.log").table("displays").iteration.tolist() == [*range(6, 12), 12]


@needs_torch
def test_one_seed_gives_one_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path, f"{FIXED} snapshot_after_train: false", 3)
    losses = [numbers(here(tmp_path, monkeypatch, seed=seed))["loss or rate"] for seed in (1, 1, 2)]
    assert losses[0] == losses[1] != losses[2]


@needs_torch
def test_ctrl_c_snapshots_and_shows_how_to_resume(tmp_path: Path) -> None:
    write_training(tmp_path, FIXED, 10**6)
    command = [sys.executable, "-m", "caffe_split", "train", "solver.prototxt", "--engine", "torch", "--threads", "1"]
    command += ["--precision", "bf16"]
    child = start_process(command, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    end = time.monotonic() + 60
    log = tmp_path / "train.log"
    while not (log.is_file() and "Iteration 20 " in log.read_text()):
        assert time.monotonic() < end and child.poll() is None
        time.sleep(0.1)
    child.send_signal(signal.SIGINT)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 130, said
    assert read_log(log).runs[-1].state == "stopped"
    words = said.strip().splitlines()[-1].split()
    assert "--engine torch --precision bf16 --threads 1" in " ".join(words)
    assert (tmp_path / words[words.index("--snapshot") + 1]).is_file()


@needs_torch
def test_all_that_is_not_handled_is_listed_at_once(tmp_path: Path) -> None:
    write_training(tmp_path, FIXED, 2)
    edit(
        tmp_path / "net.prototxt",
        ("pool: MAX", "pool: STOCHASTIC pad: 1"),
        ('type: "ReLU"', 'type: "Python"'),
        ('source: "test"', 'source: "nowhere"'),
        ("gaussian", "gauss"),
        ("moving_average_fraction", "fraction"),
    )
    said = refused(tmp_path)
    lines = (tmp_path / "net.prototxt").read_text().splitlines()
    for place, what in (
        ("STOCHASTIC", "pool: STOCHASTIC with padding"),
        ('name: "relu1"', "'relu1': python_param gives no module"),
        ('name: "left_relu"', "'left_relu': python_param gives no module"),
        ("gauss", "weight_filler of type 'gauss'"),
        ("fraction", "BatchNormParameter has no field 'fraction'"),
    ):
        number = next(n for n, line in enumerate(lines, 1) if place in line)
        # What concerns a layer as a whole stands at its first line.
        near = [line for line in said.splitlines() if what in line]
        assert len(near) == 1 and abs(int(near[0].split(":")[1]) - number) <= 1, (what, said)
    assert "no LMDB at 'nowhere'" in said


@needs_torch
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (('bottom: "pool1" top: "left"', 'bottom: "pol1" top: "left"'), "bottom 'pol1' is no top"),
        (('bottom: "pool1" top: "left"', 'bottom: "pool1" top: "conv1"'), "is one of layer 'relu1' already"),
    ],
)
def test_wrong_wiring_is_refused(tmp_path: Path, change: tuple[str, str], expected: str) -> None:
    write_training(tmp_path, FIXED, 2)
    edit(tmp_path / "net.prototxt", change)
    assert expected in refused(tmp_path)


@needs_torch
@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (("num_output: 5", "num_output: 3"), "the 3 classes 0 to 2"),
        (("num_output: 4", "num_output: 4 group: 4"), "do not divide into 4 groups"),
        (("mean_value: 100", ""), "2 mean values"),
        (("shape { dim: 6 dim: 3", "shape { dim: 5 dim: 3"), "its param 'conv1_w' has shape"),
        (("scale: 0.0078125", "crop_size: 20"), "crop_size 20 is larger"),
    ],
)
def test_data_that_do_not_fit_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, change: tuple[str, str], expected: str
) -> None:
    write_training(tmp_path, FIXED, 2)
    edit(tmp_path / "net.prototxt", change)
    with pytest.raises(CaffeSplitError, match=re.escape(expected)):
        here(tmp_path, monkeypatch)


@needs_torch
def test_records_of_another_shape_end_the_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    samples = [(np.zeros((3, 9, 9), np.uint8), 0)] * 9 + [(np.zeros((3, 8, 9), np.uint8), 0)]
    write_store(tmp_path / "train", samples)
    write_training(tmp_path, FIXED, 20)
    with pytest.raises(CaffeSplitError, match=re.escape("train: record 9 has shape (3, 8, 9), the first (3, 9, 9)")):
        here(tmp_path, monkeypatch)


@needs_torch
def test_a_loss_that_is_not_finite_stops_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The rate is harmless for three iterations and then sends the weights to infinity."""
    write_training(tmp_path, 'base_lr: 0.01 lr_policy: "multistep" gamma: 1e38 stepvalue: 3 snapshot: 1', 10)
    with pytest.raises(CaffeSplitError) as said:
        here(tmp_path, monkeypatch)
    assert re.match(
        r"Iteration [45]: the loss is (nan|-?inf); first not finite: layer '\w+' \(line \d+\), its .*; "
        r"the last good snapshot is ours_iter_[34].solverstate\.$",
        str(said.value),
    ), said.value


@needs_torch
def test_cuda_without_a_device_is_refused(tmp_path: Path) -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("there is a CUDA device here")
    write_training(tmp_path, FIXED, 2)
    said = failed(tmp_path, "--device", "cuda").splitlines()[-1]
    # The reason stands right behind the log's line, without the place in the engine's own source.
    assert re.match(r"caffe-split: torch ended with status 1; train.log:\d+: --device cuda, but PyTorch sees no", said)
    assert (tmp_path / "train.log").read_text().splitlines()[-1].startswith("F")
    edit(tmp_path / "solver.prototxt", ("solver_mode: CPU", "solver_mode: GPU"))
    assert "solver_mode: GPU, but PyTorch sees no CUDA device" in failed(tmp_path)


def test_only_the_reason_of_an_end_is_reported() -> None:
    """Of an engine that is killed the last line of the log is all there is."""
    stream = io.StringIO()
    Log(stream).info("Iteration 7, lr = 0.01")
    assert get_backend("torch").reason(stream.getvalue().rstrip()) == "Iteration 7, lr = 0.01"
    assert get_backend("torch").reason("KeyError: 'engine.py:3] x'") == "KeyError: 'engine.py:3] x'"
    assert get_backend("caffe").reason("net.cpp:785] Check failed: a == b") == "net.cpp:785] Check failed: a == b"


def test_options_of_the_other_engine_are_refused(tmp_path: Path) -> None:
    write_training(tmp_path, FIXED, 2)
    words = ("--engine", "caffe", "--seed", 3, "--precision", "bf16")
    said = caffe_split("train", "solver.prototxt", *words, cwd=tmp_path, status=1).stderr
    assert "--seed 3 --precision bf16: for --engine torch only" in said


@pytest.mark.skipif(importlib.util.find_spec("torch") is not None, reason="PyTorch is installed here")
def test_training_needs_torch(tmp_path: Path) -> None:
    write_training(tmp_path, FIXED, 2)
    assert "pip install torch" in refused(tmp_path)


@needs_torch
def test_snapshot_diff_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path, f"{FIXED} snapshot_diff: true", 2)
    with pytest.raises(CaffeSplitError, match="snapshot_diff is not handled"):
        here(tmp_path, monkeypatch)
