"""cuDNN and NCCL: found, and held to the nvcc that they are to go with. Used by tools/cuda_toolkit.py."""

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from cuda_find import (
    Nvcc,
    ToolkitError,
    find_header,
    find_libraries,
    find_library,
    header_folders,
    header_version,
    library_folders,
)

CUDNN_SUPPORTED = (8, 9)


class MismatchError(ToolkitError):
    """cuDNN is there, and cannot be used: not for this nvcc, not of its header, or not at all."""


@dataclass(frozen=True)
class Cudnn:
    """cuDNN as the library itself says it: version as (major, minor) and in full, and the CUDA major it is made for."""

    include: Path
    library: Path
    version: tuple
    release: str
    cuda: int


def find_cudnn(nvcc: Nvcc) -> Cudnn:
    """The first header and library of cuDNN that fit each other and nvcc.

    ToolkitError where there are none: what is wrong with the first that there are.
    """
    wrong = None
    for include in header_folders("cudnn_version.h", nvcc):
        try:
            version = supported_version(include)
            libraries = find_libraries("cudnn", version[0], nvcc)
            if not libraries:
                raise ToolkitError(f"no libcudnn.so.{version[0]} for the header in {include}")
        except ToolkitError as error:
            wrong = wrong or error
            continue
        for library in libraries:
            try:
                return fitting_cudnn(include, version, library, nvcc)
            except MismatchError as error:
                # More telling than a header that has no library.
                wrong = error if not isinstance(wrong, MismatchError) else wrong
    raise wrong or ToolkitError("no cudnn_version.h (of cuDNN 8 or 9)")


def supported_version(include: Path) -> tuple:
    """(major, minor) that the header of cuDNN tells; ToolkitError for one that Caffe is not built with."""
    version = header_version(include / "cudnn_version.h")
    if len(version) != 2 or version[0] not in CUDNN_SUPPORTED:
        raise ToolkitError(
            f"{include}/cudnn_version.h is of cuDNN {'.'.join(map(str, version))}; Caffe builds with 8 and 9"
        )
    return version


def fitting_cudnn(include: Path, version: tuple, library: Path, nvcc: Nvcc) -> Cudnn:
    """cuDNN as this library says it; MismatchError where it cannot be loaded, or does not fit its header or nvcc."""
    try:
        # In a process of its own: it would stay in this one, and it may be killed by what it finds.
        program = (
            "import ctypes, sys\nlibrary = ctypes.CDLL(sys.argv[1])\n"
            "library.cudnnGetVersion.restype = library.cudnnGetCudartVersion.restype = ctypes.c_size_t\n"
            "print(library.cudnnGetVersion(), library.cudnnGetCudartVersion())"
        )
        path = os.pathsep.join(map(str, library_folders(nvcc)))
        done = subprocess.run(
            [sys.executable, "-c", program, str(library)],
            capture_output=True,
            text=True,
            env={**os.environ, "LD_LIBRARY_PATH": path},
        )
        number, cudart = map(int, done.stdout.split())
    except ValueError:
        last = done.stderr.strip().splitlines()[-1:] or ["no reason given"]
        raise MismatchError(f"{library} cannot be loaded: {last[0]}") from None
    parts = (number // 10000, number // 100 % 100) if number >= 90000 else (number // 1000, number // 100 % 10)
    loaded = (*parts, number % 100)
    if loaded[:2] != version:
        raise MismatchError(
            f"cuDNN does not match: {include} is of {version[0]}.{version[1]}, {library} of {loaded[0]}.{loaded[1]}"
        )
    if cudart // 1000 != nvcc.version[0]:
        raise MismatchError(f"cuDNN does not match: {library} is for CUDA {cudart // 1000}, nvcc of {nvcc.version[0]}")
    return Cudnn(include, library, version, ".".join(map(str, loaded)), cudart // 1000)


def find_nccl(nvcc: Nvcc) -> tuple:
    """(header's folder, library, version) of NCCL. ToolkitError: one is missing, or the header tells no version."""
    library, include = find_library("nccl", 2, nvcc), find_header("nccl.h", nvcc)
    if library is None or include is None:
        raise ToolkitError("no nccl.h and libnccl.so.2: install NCCL, or PyPI's nvidia-nccl-cu13 into .venv")
    version = header_version(include / "nccl.h", "NCCL", ("MAJOR", "MINOR", "PATCH"))
    if len(version) != 3:
        raise ToolkitError(f"{include}/nccl.h tells no version (NCCL_MAJOR, NCCL_MINOR, NCCL_PATCH)")
    return include, library, ".".join(map(str, version))
