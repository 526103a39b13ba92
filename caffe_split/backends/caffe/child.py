"""Jobs for pycaffe, each in a process of its own.

pycaffe ends the process on any error (glog's FATAL), prints to standard error, and loads a second copy of Caffe's
schema. A job is a module of this package with a `main`: it takes JSON in its first argument and prints JSON as the
last line of its standard output.
"""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.table import alike, record_of

# Layers that read images through OpenCV, without which Caffe is built by default.
_OF_OPENCV = ("ImageData", "WindowData")


def run_job(module: str, job: dict[str, Any]) -> Any:
    """Run `module` as a program on `job`; what it answers. Raises `CaffeSplitError` with Caffe's own last words."""
    result = subprocess.run(
        [sys.executable, "-m", module, json.dumps(job)],
        capture_output=True,
        text=True,
        errors="replace",
        check=False,
    )
    if result.returncode:
        raise CaffeSplitError(last_words(result.stderr) or f"Caffe ended with status {result.returncode}.")
    return json.loads(result.stdout.splitlines()[-1])


def last_words(errors: str) -> str:
    """The line of its standard error that says why the child died; empty where it says nothing."""
    lines = [line for line in errors.splitlines() if line.strip()]
    if lines and lines[-1].startswith("SystemError: "):
        # What pycaffe says of an error in a Python layer, which was printed before.
        raised = [line for line in lines[:-1] if re.match(r"[\w.]+(Error|Exception)\b", line)]
        lines[-1] = raised[-1] if raised else lines[-1]
        if "No module named" in lines[-1]:
            lines[-1] += "; it is that of a Python layer: add the folder in which it lies to PYTHONPATH"
    fatal = [line for line in lines if line.startswith("F") and "]" in line]
    return explained(f"Caffe: {fatal[0].split(']', 1)[1].strip()}") if fatal else (lines[-1] if lines else "")


def explained(line: str) -> str:
    """A fatal line of Caffe, and the way out where it says too little."""
    unknown = re.search(r"Unknown layer type: (\S+)", line)
    if unknown:
        return f"Caffe: {unknown[0]}{_why_unknown(unknown[1])}"
    if "Unknown database backend" not in line:
        return line
    return (
        f"{line}: this Caffe is built without LevelDB, its default. Write the data set as an LMDB (caffe-split data "
        "lmdb SOURCE --out NEW) and backend: LMDB into the net, or train with --engine torch"
    )


def _why_unknown(name: str) -> str:
    """Why this Caffe does not know a layer's type, and what to do, as the end of a sentence."""
    if record_of(name).engine is None:
        return alike(name) or ", which is no type of Caffe's; the Caffe of the fork that has it can be named by --caffe"
    built = "; or build it with ./tools/build_caffe --opencv" if name in _OF_OPENCV else ""
    return f", which this Caffe is built without; take --engine torch{built}"


def open_net(path: str, weights: str, state: Mapping[str, Any]) -> Any:
    """In the child: a `caffe.Net` with its weights, in the `NetState` whose fields a job carries."""
    import caffe

    phase = getattr(caffe, state["phase"])
    return caffe.Net(path, phase, weights=weights, stages=state["stages"], level=state["level"])
