"""Locks held by a step and its program: waited for while the step lives, taken over when it was killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.study.locks import holding, is_held

# A step that runs a program which would go on for a minute.
STEP = """
import os, sys
from pathlib import Path
from caffe_split.study.locks import holding
from caffe_split.study.processes import run
with holding(Path(sys.argv[1])) as held:
    program = "import os, time; print(os.getpid(), flush=True); time.sleep(60)"
    run([sys.executable, "-c", program], os.environ, Path(sys.argv[2]), held)
"""


@pytest.fixture
def step(tmp_path: Path) -> tuple[subprocess.Popen[bytes], Path, int]:
    """A step that is under way, its lock, and its program."""
    lock, log = tmp_path / "lock", tmp_path / "log"
    child = subprocess.Popen([sys.executable, "-c", STEP, str(lock), str(log)])
    deadline = time.monotonic() + 60
    while not (log.exists() and log.read_text().strip()):
        assert child.poll() is None and time.monotonic() < deadline
        time.sleep(0.02)
    return child, lock, int(log.read_text())


def is_alive(pid: int) -> bool:
    """Whether a process runs; one that has ended and that nobody has waited for does not."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except FileNotFoundError:
        return False


def test_what_a_killed_step_left_running_is_ended(step: tuple[subprocess.Popen[bytes], Path, int]) -> None:
    child, lock, program = step
    os.kill(child.pid, signal.SIGKILL)
    child.wait()
    assert is_alive(program) and is_held(lock)
    with holding(lock, wait=False):
        assert not is_alive(program) and is_held(lock)
    assert not is_held(lock)


def test_a_step_that_lives_is_not_disturbed(step: tuple[subprocess.Popen[bytes], Path, int]) -> None:
    child, lock, program = step
    with (
        pytest.raises(CaffeSplitError, match=f"process {child.pid} on {os.uname().nodename} holds it"),
        holding(lock, wait=False),
    ):
        pass
    assert is_alive(program)
    # Asked to end, it takes its program along.
    child.send_signal(signal.SIGTERM)
    assert child.wait(30) == 128 + signal.SIGTERM
    assert not is_alive(program) and not is_held(lock)


def test_one_after_another(tmp_path: Path) -> None:
    for _ in range(2):
        with holding(tmp_path / "folder" / "lock"):
            assert is_held(tmp_path / "folder" / "lock")
    assert not is_held(tmp_path / "folder" / "lock") and not is_held(tmp_path / "none")


def test_a_stranger_with_the_number_of_a_dead_program_lives(tmp_path: Path) -> None:
    lock = tmp_path / "lock"
    stranger = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    holder = (
        "import fcntl, sys, time; f = open(sys.argv[1], 'a'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); "
        "time.sleep(1.5)"
    )
    child = subprocess.Popen([sys.executable, "-c", holder, str(lock)], stdout=subprocess.PIPE)
    assert child.stdout is not None and child.stdout.readline()
    lock.write_text(f"{os.uname().nodename} {gone.pid} {stranger.pid}\n")
    try:
        with holding(lock, wait=False):
            assert stranger.poll() is None
    finally:
        stranger.kill()
        child.wait()
