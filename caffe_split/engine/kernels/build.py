"""The compiled kernels: built once per source, compiler, processor and PyTorch, and kept in the user's cache.

The sources use nothing of PyTorch, so that a build takes seconds; the library gets addresses of values.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

import torch

from caffe_split.errors import CaffeSplitError
from caffe_split.files import make_folder, replacing

SOURCES = sorted(Path(__file__).parent.glob("*.cpp"))
_HEADERS = sorted(Path(__file__).parent.glob("*.h"))
_BASE = ("-O3", "-fPIC", "-shared", "-std=c++17")
# None changes a value: no operation here sets errno or traps. Tried in turn, since compilers and processors differ.
_USUAL = (*_BASE, "-march=native", "-fopenmp", "-fno-math-errno", "-fno-trapping-math")
_ATTEMPTS = ((*_USUAL, "-mprefer-vector-width=512"), _USUAL, (*_BASE, "-march=native"), _BASE)
# A user who wants PyTorch's own operations: CAFFE_SPLIT_KERNELS=off.
SWITCH = "CAFFE_SPLIT_KERNELS"
# It takes 13 s of one core; more on a machine that is busy.
_SECONDS = 300


@dataclass(frozen=True)
class Kernels:
    """The compiled kernels.

    Attributes:
        library: the loaded library; None where PyTorch's own operations are used.
        why: for the log, why there is none; "" if there is one.
    """

    library: ctypes.CDLL | None
    why: str = ""


@functools.lru_cache(maxsize=1)
def kernels() -> Kernels:
    """The kernels of this process, compiled if they are not in the cache."""
    if os.environ.get(SWITCH) == "off":
        return Kernels(None, f"{SWITCH} is off")
    try:
        return Kernels(load(cache_folder(), compiler()))
    except CaffeSplitError as error:
        return Kernels(None, str(error))


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library with the types of its functions, None if there is none. They are explained in the sources."""
    found = kernels().library
    if found is None:
        return None
    p, n, i, f = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
    types: dict[str, list[type]] = {
        "norm_batch": [i, p, n, n, f, f, p, p, p, p, p, p],
        "norm_forward": [i, p, p, n, n, p, i, p],
        "norm_backward": [i, p, p, p, p, n, n, p, i, p, p, p, p],
        "norm_statistics": [i, p, n, n, p],
        "norm_sums_back": [i, p, p, p, p, n, n, p, i, p, p],
        "norm_apply_back": [i, p, p, n, n, p, i, p, p, p],
        "conv_forward": [p, p, p, p, p],
        "conv_backward": [p, p, p, p, p, p, p],
        "picture_cut": [p, p, p],
        "pool_maximum": [i, p, p, p, p],
        "pool_mean": [i, p, p, p],
        "pool_backward": [i, p, p, p, p],
        "softmax_loss": [p, p, n, n, f, f, p, p],
        "board_bytes": [n, n],
        "board_exchange": [p, n, n, n, ctypes.c_uint64, p, n, p],
        "tiles_weights": [p, p, p, p],
        "winograd_forward": [p, p, p, p, p],
        "winograd_bottom": [p, p, p, p],
        "winograd_weights": [p, p, p, p],
        "update_sgd": [n, p, p, p, p, f, f, f, f, i, i],
    }
    for name, given in types.items():
        getattr(found, name).argtypes = given
    found.board_bytes.restype = n
    return found


def required_library() -> ctypes.CDLL:
    """The library where there has to be one: for what runs only after a check that there is (`library`, `fits`)."""
    found = library()
    assert found is not None
    return found


def compiler() -> str:
    """The path of the C++ compiler: $CXX, else g++, c++ or clang++. Raises `CaffeSplitError` if there is none."""
    names = [os.environ["CXX"]] if os.environ.get("CXX") else ["g++", "c++", "clang++"]
    for name in names:
        found = shutil.which(name)
        if found is not None:
            return found
    raise CaffeSplitError(f"no C++ compiler ({', '.join(names)})")


def cache_folder() -> Path:
    """Where compiled kernels are kept: caffe-split below $XDG_CACHE_HOME or ~/.cache.

    Raises `CaffeSplitError` where this user has no home, as one that a container was only given a number for.
    """
    above = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    if above.startswith("~"):
        raise CaffeSplitError("no home to keep compiled kernels in; set XDG_CACHE_HOME to a folder")
    return Path(above) / "caffe-split"


def key(command: str) -> str:
    """What a build depends on, as 16 digits: sources, flags, compiler, processor, and PyTorch with its threads."""
    parts = [path.read_bytes() for path in (*SOURCES, *_HEADERS)]
    version_text = subprocess.run([command, "--version"], capture_output=True, check=False).stdout
    words = [torch.__version__, platform.machine(), _processor(), repr(_ATTEMPTS), command]
    parts += [version_text, *(word.encode() for word in words)]
    return hashlib.sha256(b"\0".join(parts)).hexdigest()[:16]


def _processor() -> str:
    """The model of the processor and what it can, where the system says so."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor()
    wanted = ("model name", "flags", "Features", "CPU part")
    return "\n".join(sorted({line for line in lines if line.startswith(wanted)}))


def load(folder: Path, command: str) -> ctypes.CDLL:
    """Load the kernels from `folder`, where they are first compiled by `command` if need be.

    Raises `CaffeSplitError` if they cannot be compiled or loaded.
    """
    try:
        path = folder / f"kernels-{key(command)}.so"
        if path.is_file():
            try:
                return ctypes.CDLL(str(path))
            except OSError:
                pass  # Damaged: made anew below.
        _compile(path, command)
        return ctypes.CDLL(str(path))
    except OSError as error:
        raise CaffeSplitError(f"the kernels cannot be loaded: {error}") from None


def _compile(path: Path, command: str) -> None:
    make_folder(path.parent)
    with replacing(path) as out:
        try:
            for flags in _ATTEMPTS:
                words = [command, *flags, *map(str, SOURCES), "-o", out]
                done = subprocess.run(words, capture_output=True, timeout=_SECONDS, check=False)
                if not done.returncode:
                    return
        except subprocess.TimeoutExpired:
            raise CaffeSplitError(f"{command} took over {_SECONDS} s to compile the kernels") from None
        said = done.stderr.decode(errors="replace").strip().splitlines() or [f"exit status {done.returncode}"]
        errors = [line for line in said if "error" in line] or said
        raise CaffeSplitError(f"{command} does not compile the kernels: {errors[0]}")
