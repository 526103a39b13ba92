"""Where the built Caffe is."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from caffe_split.backends.choose import INSTALL, is_there
from caffe_split.errors import CaffeSplitError


def find_caffe(chosen: str | os.PathLike[str] | None = None) -> Path:
    """The `caffe` program: the chosen one, else beside the running python, else on PATH.

    `tools/build_caffe` puts it into the virtual environment, that is beside its python. CaffeSplitError:
    there is none, or the chosen one is no program.
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
    raise CaffeSplitError(
        f"no `caffe` beside {sys.executable} or on PATH; build it with ./tools/build_caffe, name one with --caffe "
        f"PATH, or train with --engine torch{'' if is_there('torch') else f' ({INSTALL})'}"
    )
