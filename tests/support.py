"""What tests share: the command line as a user runs it, the real Caffe, one short training on the digits."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from caffe_split.cli import main

ROOT = Path(__file__).resolve().parents[1]
CAFFE = Path(sys.executable).parent / "caffe"


def caffe_split(*arguments: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line in a folder. Its exit status must be `status`, and it must not print a traceback.

    It runs in this process, which has the libraries loaded: a process for each command takes a second, most of the time
    of a test. What is printed is caught where it leaves the process, that of children included.
    """
    words = ["caffe-split", *map(str, arguments)]
    before = Path.cwd(), sys.argv
    with _Caught(1) as out, _Caught(2) as err:
        os.chdir(cwd)
        sys.argv = words
        try:
            main()
        except SystemExit as end:
            found = end.code
        finally:
            os.chdir(before[0])
            sys.argv = before[1]
    result = subprocess.CompletedProcess(words, int(found or 0), out.text, err.text)
    assert result.returncode == status, f"{shlex.join(words)}: {found}\n{result.stdout}\n{result.stderr}"
    return result


class _Caught:
    """Catches what goes to a file descriptor, 1 or 2, and to Python's stream of it; `text` holds it afterwards."""

    def __init__(self, number: int) -> None:
        self.text = ""
        self._number = number
        self._name = {1: "stdout", 2: "stderr"}[number]

    def __enter__(self) -> _Caught:
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


def train(solver: str, cwd: Path, *arguments: str) -> str:
    """Train with the real `caffe train`, or on PyTorch where no Caffe is built; returns the log.

    `arguments` are Caffe's: -snapshot FILE, -weights FILE.
    """
    if CAFFE.exists():
        return run_caffe("train", "-solver", solver, *arguments, cwd=cwd)
    log = cwd / "test_support_train.log"
    log.unlink(missing_ok=True)
    options = [f"-{word}" if word.startswith("-") else word for word in arguments]
    caffe_split("train", solver, "--engine", "torch", "--log", log.name, "--threads", 1, "--force", *options, cwd=cwd)
    text = log.read_text()
    log.unlink()
    return text


def train_with(backend: str, solver: str, cwd: Path) -> None:
    """Train with a back end, by the command that a user would type; the log is train.log beside the solver."""
    caffe_split("train", solver, "--engine", backend, "--force", cwd=cwd)


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
