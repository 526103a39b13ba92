"""The converters from PyPI that `bench_export` compares with, in a virtual environment of their own."""

from __future__ import annotations

import resource
import shutil
import subprocess
from pathlib import Path

from benchmarks.common import Result

# caffe2onnx asks for this onnx, and that for a Python and a numpy of its time. caffe-onnx names no version of onnx, and
# works with this one, too.
PACKAGES = ("caffe2onnx==2.0.1", "caffe-onnx==0.1.2")
PINS = ("onnx==1.6.0", "protobuf==3.20.3", "numpy==1.21.6")
PYTHON = "3.7"

_REPORT = """
import time
start = time.perf_counter()
{work}
seconds = time.perf_counter() - start
peak = next(int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmHWM:"))
print("RESULT", seconds, peak)
"""
# Each as its own command does it.
_WORK = {
    "caffe2onnx": (
        "import sys, argparse\nfrom caffe2onnx.convert import main",
        "main(argparse.Namespace(prototxt=sys.argv[1], caffemodel=sys.argv[2], onnx=sys.argv[3], frozen=None))",
    ),
    "caffe-onnx": (
        "import os, sys\nfrom src.cli import main\nout = os.path.split(sys.argv[3])",
        "sys.argv[3:] = [out[1][:-5], out[0]]\nmain()",
    ),
}
RIVALS = tuple(_WORK)


def find_python(given: str | None) -> str:
    """A Python of the version that the packages need."""
    pyenv = sorted((Path.home() / ".pyenv/versions").glob(f"{PYTHON}.*/bin/python"))
    for candidate in (given, shutil.which(f"python{PYTHON}"), *map(str, pyenv)):
        if candidate and subprocess.run([candidate, "--version"], capture_output=True, check=False).returncode == 0:
            return candidate
    raise SystemExit(f"no Python {PYTHON} here, which {PACKAGES[0]} needs: give --python PATH, or --without-rivals")


def make_environment(folder: Path, python: str | None) -> Path:
    """The environment's Python; made where it is not there."""
    made = folder / "bin/python"
    if not made.exists():
        subprocess.run([find_python(python), "-m", "venv", str(folder)], check=True)
        pip = [str(made), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
        subprocess.run([*pip, *PINS, "six", "typing_extensions"], check=True)
        subprocess.run([*pip, "--no-deps", *PACKAGES], check=True)
    return made


def convert(python: Path, rival: str, net: Path, weights: Path, out: Path, most: float) -> Result | str:
    """Time and memory of a conversion by one of them, in a process of its own; or why there is no model."""
    start, work = _WORK[rival]
    program = start + _REPORT.format(work=work)
    command = [str(python), "-c", program, str(net), str(weights), str(out)]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=most, cwd=out.parent, preexec_fn=_limit, check=False
        )
    except subprocess.TimeoutExpired:
        return f"not done after {most:.0f} s"
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT ")]
    if not out.exists() or not lines:
        text = done.stderr if done.stderr.strip() else done.stdout
        said = [line.strip() for line in text.splitlines() if line.strip() and line not in lines]
        return said[-1] if said else f"it ended with status {done.returncode}"
    _, seconds, peak = lines[-1].split()
    return Result(float(seconds), int(peak))


def _limit() -> None:
    """12 GiB of memory: a conversion that wants more would take the machine down."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))
