"""What tests share: the command line as a user runs it, the real Caffe, one short training on the digits."""

from __future__ import annotations

import contextlib
import importlib.machinery
import importlib.util
import io
import os
import shlex
import signal
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from caffe_split.backends.choose import choose_backend
from caffe_split.cli import main

ROOT = Path(__file__).resolve().parents[1]
CAFFE = Path(sys.executable).parent / "caffe"
# An empty environment, but for this: Caffe's programs otherwise leave their logs in the temporary folder.
BARE = {"GLOG_logtostderr": "1"}


@contextlib.contextmanager
def inside(folder: Path) -> Iterator[None]:
    """In this folder as the current directory."""
    before = Path.cwd()
    os.chdir(folder)
    try:
        yield
    finally:
        os.chdir(before)


def caffe_split(*arguments: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder. Its exit status must be `status`, and it must not print a traceback.

    It runs in this process, which has the libraries loaded: a process for each command takes a second, most of the time
    of a test. What is printed is caught where it leaves the process, that of children included.
    """
    words = ["caffe-split", *map(str, arguments)]
    with caught(1) as out, caught(2) as err:
        found = call_main(words, cwd)
    result = subprocess.CompletedProcess(words, found, out.text, err.text)
    assert result.returncode == status, f"{shlex.join(words)}: {found}\n{result.stdout}\n{result.stderr}"
    return result


def call_main(words: list[str], folder: Path) -> int:
    """The command line `words` in a folder, in this process; its exit status."""
    before = sys.argv
    with inside(folder):
        sys.argv = words
        try:
            main()
        except SystemExit as end:
            return int(end.code or 0)
        finally:
            sys.argv = before
    raise AssertionError("main always exits")


class caught:  # noqa: N801 - it is used as a function
    """Catches what goes to a file descriptor, 1 or 2, and to Python's stream of it; `text` holds it afterwards."""

    def __init__(self, number: int) -> None:
        self.text = ""
        self._number = number
        self._name = {1: "stdout", 2: "stderr"}[number]

    def __enter__(self) -> caught:
        self._stream = getattr(sys, self._name)
        self._stream.flush()
        self._saved = os.dup(self._number)
        self._file = tempfile.TemporaryFile()
        os.dup2(self._file.fileno(), self._number)
        errors = {1: "surrogateescape", 2: "backslashreplace"}[self._number]  # as Python has them in the C locale
        made = open(self._number, "w", buffering=1, encoding="utf-8", errors=errors, closefd=False)
        setattr(sys, self._name, made)
        return self

    def __exit__(self, *error: object) -> None:
        getattr(sys, self._name).flush()
        setattr(sys, self._name, self._stream)
        os.dup2(self._saved, self._number)
        os.close(self._saved)
        with self._file:
            self._file.seek(0)
            self.text = self._file.read().decode(errors="replace").replace("\r\n", "\n")


def load_tool(name: str) -> ModuleType:
    """A program of tools/ as a module."""
    loader = importlib.machinery.SourceFileLoader(name.replace(".", "_"), str(ROOT / "tools" / name))
    module = importlib.util.module_from_spec(importlib.util.spec_from_loader(loader.name, loader))
    # A tool without .py would leave its bytecode beside it.
    before, sys.dont_write_bytecode = sys.dont_write_bytecode, True
    try:
        loader.exec_module(module)
    finally:
        sys.dont_write_bytecode = before
    return module


def run_caffe(*arguments: object, cwd: Path) -> str:
    """Run the real `caffe`; returns its log."""
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1"}
    result = subprocess.run(
        [str(CAFFE), *map(str, arguments)],
        cwd=cwd,
        env=environment,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert result.returncode == 0, result.stderr[-2000:]
    return result.stderr


def train(
    solver: str, cwd: Path, *, backend: str | None = None, weights: str | None = None, snapshot: str | None = None
) -> str:
    """Train in a folder with a back end, by default the one that commands use; returns the log.

    PyTorch trains in this process; `caffe_split train`, which starts another one, has tests of its own.
    """
    if (backend or choose_backend().name) == "caffe":
        given = {"-weights": weights, "-snapshot": snapshot}
        words = [word for name, value in given.items() if value is not None for word in (name, value)]
        return run_caffe("train", "-solver", solver, *words, cwd=cwd)
    from caffe_split.engine.log import Log
    from caffe_split.engine.training.solver import Solver

    log = io.StringIO()
    with inside(cwd):
        Solver(solver, weights=[weights] if weights else None, snapshot=snapshot, log=Log(log)).solve()
    return log.getvalue()


_started: list[subprocess.Popen[Any]] = []


def start_process(command: Sequence[str | Path], **options: Any) -> subprocess.Popen[Any]:
    """Start a program; `end_processes`, after each test, ends it where the test does not."""
    _started.append(subprocess.Popen(command, **options))
    return _started[-1]


def end_processes() -> None:
    """End what was started and still runs. A training takes three interrupts to end the one that it has started."""
    while _started:
        child = _started.pop()
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGINT, signal.SIGKILL):
            if child.poll() is None:
                child.send_signal(number)
                with contextlib.suppress(subprocess.TimeoutExpired):
                    child.wait(5)


def calls(work: Callable[[], object]) -> int:
    """How many functions `work` calls, those written in C included: work that the load of a machine does not change."""
    count = 0

    def note(_frame: object, event: str, _argument: object) -> None:
        nonlocal count
        count += event in ("call", "c_call")

    sys.setprofile(note)
    try:
        work()
    finally:
        sys.setprofile(None)
    return count


@dataclass(frozen=True)
class Trained:
    """A folder in which the instrumented digits net was trained for 100 iterations, a snapshot every 10."""

    folder: Path
    log: str
    solver: str = "digits/solver.prototxt"
    net: str = "digits/train_val.prototxt"


def stub(folder: Path, name: str, script: str) -> None:
    """Write a shell script into a folder as a program of that name."""
    path = folder / name
    path.write_text(f"#!/bin/sh\n{script}\n")
    path.chmod(0o755)
