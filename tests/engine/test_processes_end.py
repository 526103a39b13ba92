"""Several processes write one log and one line for an error, and all end when any of them is killed."""

from __future__ import annotations

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from caffe_split.data.store import write_store
from caffe_split.engine.cores import usable_cores
from caffe_split.errors import CaffeSplitError
from tests.engine.runs import numbers, write_training
from tests.support import ROOT, caffe_split, start_process

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.parallel.join import Seat, device_for, seat

FIXED = 'base_lr: 0.01 momentum: 0.9 lr_policy: "fixed"'
needs_proc = pytest.mark.skipif(not Path("/proc/self/environ").exists(), reason="finds processes by /proc")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}


def process(rank: int, folder: Path) -> int:
    """The id of the process of that rank that trains in a folder."""
    for path in Path("/proc").glob("[0-9]*"):
        try:
            words = (path / "environ").read_bytes().split(b"\0")
            trains = b"caffe_split.engine" in (path / "cmdline").read_bytes()
            if trains and f"RANK={rank}".encode() in words and (path / "cwd").readlink() == folder:
                return int(path.name)
        except OSError:
            continue  # It has ended meanwhile, or is another's.
    raise AssertionError(f"no process of rank {rank}")


def is_there(rank: int, folder: Path) -> bool:
    try:
        process(rank, folder)
    except AssertionError:
        return False
    return True


def process_soon(rank: int, folder: Path) -> int:
    end = time.monotonic() + 60
    while True:
        try:
            return process(rank, folder)
        except AssertionError:
            assert time.monotonic() < end
            time.sleep(0.01)


def wait_for(text: str, log: Path, child: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 120
    while not (log.is_file() and text in log.read_text()):
        assert time.monotonic() < end and child.poll() is None, log.read_text()[-2000:]
        time.sleep(0.05)


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("digits")
    shutil.copytree(ROOT / "prototxt" / "digits", folder / "digits")
    caffe_split("data", "digits", "--out", "data", cwd=folder)
    solver = folder / "digits" / "solver.prototxt"
    text = solver.read_text()
    for old, new in (
        ("max_iter: 2000", "max_iter: 60"),
        ("snapshot: 100", "snapshot: 15"),
        ("test_interval: 50", "test_interval: 30"),
    ):
        assert old in text
        text = text.replace(old, new)
    solver.write_text(text + "test_initialization: false\n")
    return folder


GO = (
    "train",
    "digits/solver.prototxt",
    "--engine",
    "torch",
    "--processes",
    "2",
    "--threads",
    "1",
    "--snapshot",
    "auto",
    "--append",
)


@needs_proc
def test_a_killed_process_ends_all_and_auto_resumes(digits: Path, tmp_path: Path) -> None:
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    for folder in (whole, killed):
        shutil.copytree(digits, folder)
    jobs = [{"name": "whole", "folder": str(whole), "size": 2, "file": "digits/solver.prototxt"}]
    (tmp_path / "jobs.json").write_text(json.dumps(jobs))
    script = Path(__file__).with_name("processes_job.py")
    subprocess.run([sys.executable, str(script), str(tmp_path / "jobs.json")], check=True, timeout=120)
    log = killed / "digits" / "train.log"
    child = start_process([sys.executable, "-m", "caffe_split", *GO], cwd=killed, stderr=subprocess.PIPE, text=True)
    wait_for("Iteration 20 ", log, child)
    victim = process(1, killed)
    os.kill(victim, signal.SIGKILL)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 1
    fatal = [line for line in log.read_text().splitlines() if line.startswith("F")]
    assert len(fatal) == 1 and f"process 1 of 2 (host {socket.gethostname()}, pid {victim}) is gone" in fatal[0]
    assert "the last good snapshot is digits/digits_iter_" in fatal[0] and fatal[0].split("] ")[1] in said
    with pytest.raises(AssertionError, match="no process of rank 0"):
        process(0, killed)
    caffe_split(*GO, cwd=killed)
    text = log.read_text()
    assert re.search(r"Resuming from digits/digits_iter_(15|30|45)\.solverstate", text)
    ends = [
        [line.split("] ")[1] for line in path.read_text().splitlines() if "Test net output" in line][-2:]
        for path in (log, whole / "whole.0.log")
    ]
    assert ends[0] == ends[1] and "accuracy = " in ends[0][0]


@pytest.mark.slow
@needs_proc
def test_an_interrupt_of_one_node_stops_both(tmp_path: Path) -> None:
    """torchrun on two machines, which are this one."""
    write_training(tmp_path, f"{FIXED} test_initialization: false", 10**6)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    agents = []
    for node in range(2):
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes", "2", "--node-rank", str(node)]
        command += ["--nproc-per-node", "1", "--master-addr", "127.0.0.1", "--master-port", str(port)]
        with (tmp_path / f"{node}.log").open("w") as log:
            agents.append(
                start_process(
                    [*command, "-m", "caffe_split.engine", "solver.prototxt", "--sync-bn"],
                    cwd=tmp_path,
                    env=ENVIRONMENT,
                    stderr=log,
                    text=True,
                )
            )
    wait_for("Iteration 20 ", tmp_path / "0.log", agents[0])
    os.kill(process(1, tmp_path), signal.SIGINT)
    assert [agent.wait(60) for agent in agents] == [0, 0]
    log = (tmp_path / "0.log").read_text()
    states = list(tmp_path.glob("*.solverstate"))
    assert len(states) == 1 and log.count("Snapshotting solver state") == 1
    assert "2 processes, every one with its part of a batch; BatchNorm's statistics by batch" in log
    iteration = int(re.search(r"_iter_(\d+)", states[0].name)[1])  # type: ignore[index]
    assert len(numbers(log)["loss or rate"]) == 2 * iteration
    assert "Optimization stopped early" in log and "engine.py" not in (tmp_path / "1.log").read_text()


@pytest.fixture
def engine() -> list[str]:
    return [sys.executable, "-m", "caffe_split.engine", "solver.prototxt"]


def fails(command: list[str], folder: Path, **environment: str) -> str:
    """The one line of a program that ends with status 1."""
    environment = {**ENVIRONMENT, **environment}
    result = subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120, check=False
    )
    fatal = [line for line in result.stderr.splitlines() if line.startswith("F")]
    assert result.returncode == 1 and len(fatal) == 1 and "Traceback" not in result.stderr, result.stderr
    return fatal[0]


def test_an_error_in_one_process_ends_all(tmp_path: Path, engine: list[str]) -> None:
    """Of every 8 records the second process reads the last four."""
    shapes = [(3, 9, 9)] * 13 + [(3, 8, 9)] + [(3, 9, 9)] * 10
    write_store(tmp_path / "train", [(np.zeros(shape, np.uint8), 0) for shape in shapes])
    write_training(tmp_path, FIXED, 20)
    said = fails([*engine, "--processes", "2"], tmp_path)
    assert "process 1 of 2 (" in said and "train: record 13 has shape (3, 8, 9), the first (3, 9, 9)" in said


@pytest.mark.parametrize("threads", [None, 3])
def test_a_batch_that_does_not_divide_is_refused_in_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, threads: int | None
) -> None:
    """Also, the processes divide the cores unless --threads is given."""
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    write_training(tmp_path, FIXED, 2, batch=7)
    words = ("train", "solver.prototxt", "--engine", "torch", "--processes", 2)
    said = caffe_split(*words, *(("--threads", threads) if threads else ()), cwd=tmp_path, status=1).stderr
    assert f", {threads or max(1, usable_cores() // 2)} threads, fp32" in (tmp_path / "train.log").read_text()
    assert re.search(r"train.log:\d+: layer 'data' \(line 3\): a batch of 7 does not divide over 2 processes", said)
    assert len(re.findall("^F", (tmp_path / "train.log").read_text(), re.MULTILINE)) == 1


# The flags, the environment, and what is said.
REFUSED: dict[str, tuple[list[str], dict[str, str], str]] = {
    "an incomplete environment": (
        [],
        {"RANK": "0", "WORLD_SIZE": "2"},
        "RANK and WORLD_SIZE in the environment, but no LOCAL_RANK and MASTER_ADDR and MASTER_PORT",
    ),
    "an incomplete environment of another rank": ([], {"RANK": "1"}, "RANK in the environment, but no WORLD_SIZE"),
    "sync-bn without effect": (["--sync-bn"], {}, "--sync-bn is for several processes"),
    "scale-batch without effect": (["--scale-batch"], {}, "--scale-batch is for several processes"),
    "continue-data without effect": (
        ["--continue-data"],
        {},
        "--continue-data is for a training that goes on: give --snapshot",
    ),
    "processes beside an environment": (
        ["--processes", "2"],
        {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"},
        "--processes 2, but the environment",
    ),
}
# All in one process, which loads PyTorch once.
REFUSALS = """
import json, os, sys
from caffe_split.engine.__main__ import main
for name, (words, environment, _) in json.loads(sys.argv[1]).items():
    sys.argv = ["engine", "solver.prototxt", *words]
    os.environ.update(environment)
    print(name, file=sys.stderr)
    print(main(), file=sys.stderr)
    for variable in environment:
        del os.environ[variable]
"""


@pytest.fixture(scope="module")
def refusals(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("refused")
    write_training(folder, FIXED, 2)
    command = [sys.executable, "-c", REFUSALS, json.dumps(REFUSED)]
    done = subprocess.run(
        command, cwd=folder, env=ENVIRONMENT, capture_output=True, text=True, timeout=120, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stderr


@pytest.mark.parametrize("name", REFUSED)
def test_what_does_not_fit_together_is_refused_in_one_line(refusals: str, name: str) -> None:
    line, status = refusals.split(f"{name}\n")[1].splitlines()[:2]
    assert line.startswith("F") and REFUSED[name][2] in line and status == "1"


@needs_proc
def test_a_killed_launcher_ends_all(digits: Path, tmp_path: Path, engine: list[str]) -> None:
    folder = tmp_path / "run"
    shutil.copytree(digits, folder)
    log = folder / "digits" / "train.log"
    with log.open("wb") as stream:
        words = [part if part != "solver.prototxt" else "digits/solver.prototxt" for part in engine]
        child = start_process([*words, "--processes", "2", "--threads", "1"], cwd=folder, stderr=stream)
    wait_for("Iteration 20 ", log, child)
    child.kill()
    child.wait()
    end = time.monotonic() + 60
    while "F" not in {line[:1] for line in log.read_text().splitlines()}:
        assert time.monotonic() < end
        time.sleep(0.1)
    assert "the process that started the others is gone" in log.read_text()
    for rank in (0, 1):
        while is_there(rank, folder):
            assert time.monotonic() < end
            time.sleep(0.1)


@needs_proc
@pytest.mark.parametrize("rank", [0, 1])
def test_a_process_that_dies_before_the_meeting_ends_all(tmp_path: Path, rank: int) -> None:
    """It is killed while it still loads PyTorch; the other one would wait for it for minutes."""
    write_training(tmp_path, FIXED, 10**6)
    script = (
        "import sys\nfrom caffe_split.engine.parallel import launch\nfrom caffe_split.engine.log import Log\n"
        "launch._GRACE = 3.0\nsys.exit(launch.launch(2, ['solver.prototxt'], 1, Log()))"
    )
    child = start_process(
        [sys.executable, "-c", script], cwd=tmp_path, env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
    )
    os.kill(process_soon(rank, tmp_path), signal.SIGKILL)
    try:
        _, said = child.communicate(timeout=60)
    finally:
        child.terminate()
    fatal = [line for line in said.splitlines() if line.startswith("F")]
    assert child.returncode == 1 and len(fatal) == 1 and "Traceback" not in said, said
    assert f"] Process {rank} of 2 was ended by SIGKILL before all had met." in fatal[0]
    for other in (0, 1):
        with pytest.raises(AssertionError, match="no process of rank"):
            process(other, tmp_path)


FULL = {"RANK": "3", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "there", "MASTER_PORT": "29500"}


def test_a_seat_is_read_from_the_environment() -> None:
    assert seat({}) is None and seat({"MASTER_ADDR": "there", "LOCAL_RANK": "0"}) is None
    assert seat({**FULL, "LOCAL_WORLD_SIZE": "2"}) == Seat(3, 4, 1, 2, "there")
    assert seat({**FULL, "RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0"}) is None
    for change, expected in (
        ({"RANK": "4"}, "RANK 4 and LOCAL_RANK 1 in the environment do not fit WORLD_SIZE 4"),
        ({"MASTER_PORT": "x"}, "invalid literal"),
        ({"MASTER_ADDR": ""}, "but no MASTER_ADDR: start several processes with torchrun"),
    ):
        with pytest.raises(CaffeSplitError, match=expected):
            seat({**FULL, **change})


def test_more_processes_than_devices_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_training(tmp_path, FIXED, 2)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    solver = str(tmp_path / "solver.prototxt")
    with pytest.raises(CaffeSplitError, match="2 processes on this machine, and PyTorch sees 1 CUDA device; start at"):
        device_for(Seat(0, 4, 0, 2, "there"), "cuda", solver)
    assert device_for(Seat(0, 4, 0, 2, "there"), None, solver).type == "cpu"
