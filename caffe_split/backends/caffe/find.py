"""Where the built Caffe is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from caffe_split.backends.protocol import NotFoundError
from caffe_split.errors import CaffeSplitError


def find_caffe(chosen: str | os.PathLike[str] | None = None) -> Path:
    """The `caffe` program: the chosen one, else that beside the running python, else that on PATH.

    `tools/build_caffe` puts it into the virtual environment, beside its python. Raises `NotFoundError` where there is
    none, and `CaffeSplitError` where the chosen one is not a program.
    """
    if chosen is not None:
        path = Path(chosen)
        if path.is_file() and os.access(path, os.X_OK):
            return path.absolute()
        raise CaffeSplitError(f"{path} is not a program; expected the path of a built `caffe`")
    # Not resolved: the python of a virtual environment is a link to the system's.
    beside = Path(sys.executable).parent / "caffe"
    if beside.is_file() and os.access(beside, os.X_OK):
        return beside
    found = shutil.which("caffe")
    if found:
        return Path(found).absolute()
    raise NotFoundError(
        f"no `caffe` beside {sys.executable} or on PATH; build it with ./tools/build_caffe, name one with --caffe PATH",
        "no built Caffe is found here",
    )
