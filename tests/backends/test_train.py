"""`train`: with the real Caffe where it is built, with a stand-in for what it never does."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from caffe_split.backends import train_plan
from caffe_split.backends.caffe import find
from caffe_split.backends.process import Child
from caffe_split.backends.torch import Torch
from caffe_split.engine.spec import command
from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog import read_log
from tests.support import start_process

BUILT = Path(sys.executable).parent / "caffe"
needs_caffe = pytest.mark.skipif(not BUILT.is_file(), reason="no built Caffe beside this python")

NET = """
name: "tiny"
layer {{ name: "data" type: "DummyData" top: "data" top: "label"
  dummy_data_param {{ shape {{ dim: 8 dim: 4 }} shape {{ dim: 8 }}
    data_filler {{ type: "gaussian" std: {std} }} data_filler {{ type: "constant" value: 1 }} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "data" top: "ip"
  inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
layer {{ name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }}
layer {{ name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy"
  include {{ phase: TEST }} }}
"""


def write_solver(folder: Path, max_iter: int, extra: str = "", std: str = "1") -> Path:
    (folder / "net.prototxt").write_text(NET.format(std=std))
    solver = folder / "solver.prototxt"
    solver.write_text(
        f'net: "net.prototxt"\nbase_lr: 0.01\nlr_policy: "fixed"\nmax_iter: {max_iter}\ndisplay: 50\n'
        f'test_iter: 2\ntest_interval: 500\nsnapshot_prefix: "tiny"\nrandom_seed: 3\n'
        f"solver_mode: CPU\n{extra}"
    )
    return solver


def start(folder: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "caffe_split", "train", "solver.prototxt", *words]
    return start_process(command, cwd=folder, stderr=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


def run(folder: Path, *words: str) -> tuple[int, str]:
    child = start(folder, *words)
    _, said = child.communicate(timeout=60)
    return child.returncode, said


def wait_for(path: Path, text: str, seconds: float = 30) -> None:
    end = time.monotonic() + seconds
    while not (path.is_file() and text in path.read_text(errors="replace")):
        assert time.monotonic() < end, f"{text!r} never came into {path}"
        time.sleep(0.05)


# With the real Caffe


@pytest.mark.caffe
@needs_caffe
def test_train_then_refuse_then_force(tmp_path: Path) -> None:
    write_solver(tmp_path, 1000)
    status, said = run(tmp_path)
    assert status == 0, said
    assert "train -solver solver.prototxt" in said and "accuracy" in said
    log = read_log(tmp_path / "train.log")
    assert [r.state for r in log.runs] == ["done"]
    assert log.table("tests").iteration.tolist() == [0, 500, 1000]
    assert log.table("displays").iteration.tolist() == [*list(range(0, 1000, 50)), 1000]
    status, said = run(tmp_path)
    assert status == 1 and "--force" in said and "--append" in said
    assert run(tmp_path, "--force")[0] == 0
    assert len(read_log(tmp_path / "train.log").runs) == 1


@pytest.mark.caffe
@needs_caffe
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_interrupt_snapshot_resume(tmp_path: Path, number: int) -> None:
    write_solver(tmp_path, 100_000_000)
    child = start(tmp_path)
    wait_for(tmp_path / "train.log", "Iteration 50")
    child.send_signal(number)
    _, said = child.communicate(timeout=60)
    assert child.returncode == 128 + number, said
    log = read_log(tmp_path / "train.log")
    assert log.runs[-1].state == "stopped"
    assert len(log.runs[-1].of_kind("snapshot")) == 2  # weights and state, of one snapshot
    command = said.strip().splitlines()[-1].split()
    assert command[:3] == ["caffe-split", "train", "solver.prototxt"] and "--append" in command
    state = command[command.index("--snapshot") + 1]
    assert (tmp_path / state).is_file()

    stopped = int(state.split("_iter_")[1].split(".")[0])
    text = (tmp_path / "solver.prototxt").read_text().replace("100000000", str(stopped + 200))
    (tmp_path / "solver.prototxt").write_text(text)
    status, said = run(tmp_path, *command[3:])
    assert status == 0, said
    log = read_log(tmp_path / "train.log")
    assert [r.state for r in log.runs] == ["stopped", "done"]
    assert log.runs[1].first_iteration >= stopped
    assert (tmp_path / f"tiny_iter_{stopped + 200}.caffemodel").is_file()


@pytest.mark.caffe
@needs_caffe
def test_a_quiet_pycaffe_does_not_make_an_empty_log(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GLOG_minloglevel", "2")
    write_solver(tmp_path, 20)
    status, said = run(tmp_path)
    assert status == 0, said
    assert read_log(tmp_path / "train.log").runs[0].state == "done"


@pytest.mark.caffe
@needs_caffe
def test_the_fatal_line_is_named(tmp_path: Path) -> None:
    write_solver(tmp_path, 100)
    (tmp_path / "net.prototxt").write_text(NET.format(std="1").replace("Accuracy", "Acuracy"))
    status, said = run(tmp_path)
    assert status == 128 + signal.SIGABRT
    assert "Unknown layer type: Acuracy" in said and "train.log:" in said
    line = int(said.split("train.log:")[1].split(":")[0])
    assert "Unknown layer type" in (tmp_path / "train.log").read_text().splitlines()[line - 1]
    # An earlier log is no place for a training that does not begin.
    before = (tmp_path / "train.log").read_bytes()
    for words, name in ((["--append"], "train.log.failed"), (["--force"], "train.log.failed2")):
        status, said = run(tmp_path, *words)
        again = int(said.split(f"{name}:")[1].split(":")[0])
        assert "Unknown layer type" in (tmp_path / name).read_text().splitlines()[again - 1]
        assert (tmp_path / "train.log").read_bytes() == before


# With a stand-in


STAND_IN = """#!{python}
import os, signal, sys, time
def note(number, frame):
    print("got", signal.Signals(number).name, flush=True)
    if number in ENDS: sys.exit(0)
ENDS = {{signal.Signals[name] for name in "{ends}".split()}}
signal.signal(signal.SIGINT, note)
signal.signal(signal.SIGTERM, note)
print("args", *sys.argv[1:], "threads", os.environ["OPENBLAS_NUM_THREADS"], flush=True)
print("session", os.getsid(0) == os.getpid(), flush=True)
while True: time.sleep(0.05)
"""


def stand_in(folder: Path, ends: str) -> Path:
    program = folder / "caffe"
    program.write_text(STAND_IN.format(python=sys.executable, ends=ends))
    program.chmod(0o755)
    return program


@pytest.mark.parametrize(
    ("ends", "presses", "seen"),
    [
        ("SIGINT", 1, ["SIGINT"]),
        ("SIGTERM", 2, ["SIGINT", "SIGTERM"]),
        ("SIGTERM", 1, ["SIGINT", "SIGTERM"]),  # --grace runs out
        ("", 3, ["SIGINT", "SIGTERM"]),  # only SIGKILL is left
    ],
)
def test_ladder(tmp_path: Path, ends: str, presses: int, seen: list[str]) -> None:
    write_solver(tmp_path, 10)
    program = stand_in(tmp_path, ends)
    child = start(tmp_path, "--caffe", str(program), "--grace", "1.5" if presses == 1 else "60")
    wait_for(tmp_path / "train.log", "session True")
    for press in range(presses):
        child.send_signal(signal.SIGINT)
        if press < len(seen):
            wait_for(tmp_path / "train.log", f"got {seen[press]}")
    _, said = child.communicate(timeout=30)
    log = (tmp_path / "train.log").read_text()
    assert [line.split()[1] for line in log.splitlines() if line.startswith("got")] == seen
    assert child.returncode == (137 if not ends else 130)
    assert "stopped without a snapshot" in said


def test_a_training_is_alone_and_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    write_solver(tmp_path, 10)
    (tmp_path / "other.prototxt").write_text((tmp_path / "solver.prototxt").read_text())
    program = str(stand_in(tmp_path, "SIGINT"))
    child = start(tmp_path, "--caffe", program)
    wait_for(tmp_path / "train.log", "session True")
    for words in (["--force"], ["--append"]):
        status, said = run(tmp_path, "--caffe", program, *words)
        assert status == 1 and "another training is running that writes the log train.log" in said
    status, said = run(tmp_path, "--caffe", program, "--log", "other.log")
    assert status == 1 and "another training is running that writes snapshots of the prefix tiny" in said
    child.kill()
    child.communicate()
    wait_for(tmp_path / "train.log", "got SIGINT")
    assert (tmp_path / "train.log").read_text().count("session") == 1
    # What a killed one leaves is no hindrance to the next.
    child = start(tmp_path, "--caffe", program, "--force")
    hidden = next(iter(tmp_path.glob(".train.log.*/new")), None)
    while hidden is None or "session True" not in hidden.read_text():
        time.sleep(0.05)
        hidden = next(iter(tmp_path.glob(".train.log.*/new")), None)
    child.send_signal(signal.SIGINT)
    child.communicate(timeout=30)
    assert "got SIGINT" in (tmp_path / "train.log.failed").read_text()
    assert not list(tmp_path.glob(".*"))


def test_threads(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    solver = write_solver(tmp_path, 10)
    program = str(stand_in(tmp_path, ""))
    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    assert train_plan.plan_training(solver, caffe=program).environment["OPENBLAS_NUM_THREADS"] == "1"
    monkeypatch.setenv("OPENBLAS_NUM_THREADS", "4")
    assert train_plan.plan_training(solver, caffe=program).environment["OPENBLAS_NUM_THREADS"] == "4"
    assert train_plan.plan_training(solver, caffe=program, threads=2).environment["OPENBLAS_NUM_THREADS"] == "2"


def test_the_command_is_quoted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "a run's folder"
    folder.mkdir()
    plan = train_plan.plan_training(write_solver(folder, 10), caffe=str(stand_in(tmp_path, "")))
    assert train_plan.printable(plan).endswith(f"""train -solver '{tmp_path}/a run'"'"'s folder/solver.prototxt'""")


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"weights": "no.caffemodel"}, "no weights file no.caffemodel"),
        ({"snapshot": "tiny_iter_7.solverstate"}, "there are: tiny_iter_5.solverstate"),
        ({"weights": "a", "snapshot": "b"}, "not both"),
        ({"log": "nowhere/train.log"}, "cannot write the log"),
        ({"solver": "net.prototxt"}, "is a net, not a solver"),
        ({"solver": "missing.prototxt"}, "solvers there: solver.prototxt"),
        ({"caffe": "missing"}, "missing is not a program"),
    ],
)
def test_refusals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, options: dict[str, object], words: str) -> None:
    monkeypatch.chdir(tmp_path)
    write_solver(tmp_path, 10)
    (tmp_path / "tiny_iter_5.solverstate").write_text("x")
    program = str(stand_in(tmp_path, ""))
    with pytest.raises(CaffeSplitError, match=words):
        train_plan.plan_training(**{"solver": "solver.prototxt", "caffe": program, **options})  # type: ignore[arg-type]
    assert not os.path.exists("train.log")


def test_no_caffe_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    with pytest.raises(CaffeSplitError, match="tools/build_caffe"):
        find.find_caffe()
    stand_in(tmp_path, "")
    assert find.find_caffe() == tmp_path / "caffe"


def test_which_engine_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Caffe where it is found, else PyTorch where that is, else one line with both ways out."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", str(tmp_path))
    write_solver(tmp_path, 10)
    monkeypatch.setattr(command, "command_for", lambda *_: ["python", "-m", "caffe_split.engine"])
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setattr(Torch, "is_there", lambda _: False)
    with pytest.raises(CaffeSplitError, match=r"build it with ./tools/build_caffe.*torch \(install PyTorch with"):
        train_plan.plan_training("solver.prototxt")
    monkeypatch.setattr(Torch, "is_there", lambda _: True)
    plan = train_plan.plan_training("solver.prototxt")
    assert (plan.engine, plan.why) == ("torch", "no built Caffe is found here")
    assert "--engine torch" in train_plan.resume_command(plan, "tiny_iter_5.solverstate")
    with pytest.raises(CaffeSplitError, match="missing is not a program"):
        train_plan.plan_training("solver.prototxt", caffe="missing")
    stand_in(tmp_path, "")
    plan = train_plan.plan_training("solver.prototxt")
    assert (plan.engine, plan.why) == ("caffe", "")
    assert "--caffe" not in train_plan.resume_command(plan, "tiny_iter_5.solverstate")
    plan = train_plan.plan_training("solver.prototxt", caffe="./caffe")
    assert train_plan.resume_command(plan, "tiny_iter_5.solverstate").endswith("--append --caffe ./caffe")


def test_a_child_runs_from_any_thread(tmp_path: Path) -> None:
    """Only the main thread of a program can take signals; another one runs its child without."""
    ended = []

    def run() -> None:
        with open(tmp_path / "out", "wb") as output:
            child = Child([sys.executable, "-c", "print(1)"], dict(os.environ), output, 5.0)
            while child.poll(0.1) is None:
                pass
            child.close()
            ended.append(child.poll(0))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert ended == [0] and (tmp_path / "out").read_text() == "1\n"
