"""What tests share: the command line as a user runs it, the real Caffe, one short training on the digits."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CAFFE = Path(sys.executable).parent / "caffe"


def caffe_split(*arguments: object, cwd: Path, status: int = 0) -> subprocess.CompletedProcess[str]:
    """Run the command line as a user does. Its exit status must be `status`, and it must not print a traceback."""
    command = [sys.executable, "-m", "caffe_split", *map(str, arguments)]
    result = subprocess.run(
        command, cwd=cwd, capture_output=True, text=True, errors="replace", timeout=300, check=False
    )
    assert result.returncode == status, f"{command}: {result.returncode}\n{result.stdout}\n{result.stderr}"
    assert "Traceback" not in result.stderr
    return result


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
