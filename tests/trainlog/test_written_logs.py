"""Logs that the built Caffe writes here: trained, resumed, interrupted, killed, diverged, with two test nets."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from caffe_split.trainlog import export, pipeline, read_log
from tests.support import start_process

CAFFE = Path(sys.executable).parent / "caffe"
pytestmark = [
    pytest.mark.caffe,
    pytest.mark.skipif(not CAFFE.is_file(), reason="no built Caffe beside this python"),
]

NET = """
name: "small"
layer { name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param { shape { dim: 8 dim: 4 } shape { dim: 8 }
    data_filler { type: "gaussian" std: 1 } data_filler { type: "constant" value: 1 } } }
layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" loss_weight: 0.5 }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "top/accuracy"
  include { phase: TEST } }
"""
SOLVER = """
net: "net.prototxt"
base_lr: 0.01
lr_policy: "multistep"
gamma: 0.1
stepvalue: 60
max_iter: 100
display: 20
test_iter: 1
test_interval: 50
snapshot: 50
snapshot_prefix: "small"
random_seed: 1
solver_mode: CPU
"""


def start(folder: Path, solver: str, *words: str) -> subprocess.Popen[bytes]:
    if not (folder / "net.prototxt").exists():
        (folder / "net.prototxt").write_text(NET)
    (folder / "solver.prototxt").write_text(solver)
    command = [str(CAFFE), "train", "-solver", "solver.prototxt", *words]
    environment = {**os.environ, "GLOG_logtostderr": "1", "OPENBLAS_NUM_THREADS": "1"}
    with (folder / "train.log").open("ab") as log:
        return start_process(command, cwd=folder, stderr=log, env=environment)


def train(folder: Path, solver: str = SOLVER, *words: str) -> Path:
    assert start(folder, solver, *words).wait(timeout=60) == 0
    return folder / "train.log"


def same_as_pipeline(path: Path) -> None:
    command = 'grep Test "$LOG" | grep -i acc | sort -nk 11 | tail -3'
    environment = {**os.environ, "LC_ALL": "C", "LOG": str(path)}
    shell = subprocess.run(command, shell=True, env=environment, stdout=subprocess.PIPE, check=True).stdout
    assert [found.text for found in pipeline.best_lines(path, 3)] == shell.splitlines()


def test_a_training_and_its_resumption_are_two_runs(tmp_path: Path) -> None:
    path = train(tmp_path)
    (run,) = read_log(path).runs
    assert run.state == "done" and run.displays.iteration.tolist() == [0, 20, 40, 60, 80, 100]
    assert run.lr["lr"].tolist() == pytest.approx([0.01, 0.01, 0.01, 0.001, 0.001])
    assert run.tests[0].names == ["loss", "top/accuracy"] and run.tests[0].iteration.tolist() == [0, 50, 100]
    assert [e.iteration for e in run.of_kind("snapshot")] == [50, 50, 100, 100]
    assert [e.kind for e in run.events if e.kind == "multistep"] == ["multistep"]
    train(tmp_path, SOLVER.replace("max_iter: 100", "max_iter: 150"), "-snapshot", "small_iter_50.solverstate")
    log = read_log(path)
    assert [r.state for r in log.runs] == ["done", "done"] and log.runs[1].of_kind("resume")
    tests = log.table("tests")
    assert tests.iteration.tolist() == [0, 50, 100, 150]
    assert tests.lines["loss"][1] > log.runs[1].first_line  # the later run wins
    same_as_pipeline(path)


def test_csv_of_a_log_whose_dates_bvlc_can_read(tmp_path: Path) -> None:
    path = train(tmp_path)
    names, rows = export.bvlc_table(read_log(path), "tests")
    assert names == ["NumIters", "Seconds", "LearningRate", "loss", "top/accuracy"]
    assert [row[0] for row in rows] == [0.0, 50.0, 100.0]


@pytest.mark.parametrize(("number", "state"), [(signal.SIGINT, "stopped"), (signal.SIGKILL, "unfinished")])
def test_an_interrupt_stops_a_run_and_a_kill_leaves_it_unfinished(tmp_path: Path, number: int, state: str) -> None:
    child = start(tmp_path, SOLVER.replace("max_iter: 100", "max_iter: 1000000000"))
    end = time.monotonic() + 30
    while b"Iteration 60" not in (tmp_path / "train.log").read_bytes():
        assert time.monotonic() < end
        time.sleep(0.02)
    child.send_signal(number)
    child.wait(timeout=30)
    (run,) = read_log(tmp_path / "train.log").runs
    assert run.state == state and run.last_iteration >= 60
    same_as_pipeline(tmp_path / "train.log")


def test_a_diverged_loss_is_a_value(tmp_path: Path) -> None:
    # The inner product is to give back its input, with steps far too long.
    net = NET.replace("num_output: 3", "num_output: 4").replace("SoftmaxWithLoss", "EuclideanLoss")
    net = net.replace('bottom: "label" top: "loss"', 'bottom: "data" top: "loss"')
    (tmp_path / "net.prototxt").write_text(net)
    (run,) = read_log(train(tmp_path, SOLVER.replace("base_lr: 0.01", "base_lr: 100"))).runs
    assert run.state == "done" and not np.isfinite(run.displays["loss"][-1])
    assert (run.displays.lines["loss"] > 0).all()


def test_two_test_nets_have_two_tables(tmp_path: Path) -> None:
    solver = SOLVER.replace('net: "net.prototxt"', 'train_net: "net.prototxt"\ntest_net: "net.prototxt"\n' * 1)
    solver = solver.replace("test_iter: 1", 'test_net: "net.prototxt"\ntest_iter: 1\ntest_iter: 2')
    log = read_log(train(tmp_path, solver))
    assert log.test_nets == [0, 1]
    assert all(log.table("tests", net).iteration.tolist() == [0, 50, 100] for net in (0, 1))
    same_as_pipeline(tmp_path / "train.log")


def test_caffe_test_and_caffe_time_leave_results(tmp_path: Path) -> None:
    train(tmp_path)
    for words, name in (
        (["test", "-model", "net.prototxt", "-weights", "small_iter_100.caffemodel", "-iterations", "3"], "test"),
        (["time", "-model", "net.prototxt", "-iterations", "2"], "time"),
    ):
        done = subprocess.run([str(CAFFE), *words], cwd=tmp_path, stderr=subprocess.PIPE, check=True)
        (tmp_path / f"{name}.log").write_bytes(done.stderr)
    (run,) = read_log(tmp_path / "test.log").runs
    assert run.batches.iteration.tolist() == [0, 1, 2] and "top/accuracy" in run.results
    assert run.results["top/accuracy"] == pytest.approx(run.batches["top/accuracy"].mean(), rel=1e-4)
    (run,) = read_log(tmp_path / "time.log").runs
    assert {"ip forward ms", "ip backward ms", "Forward pass ms", "Total Time ms"} <= set(run.results)


def test_a_fatal_message_is_the_cause_of_a_crash(tmp_path: Path) -> None:
    child = start(tmp_path, SOLVER.replace("multistep", "no_such_policy"))
    assert child.wait(timeout=30) == -signal.SIGABRT
    (run,) = read_log(tmp_path / "train.log").runs
    assert run.state == "crashed" and "Unknown learning rate policy: no_such_policy" in run.cause
