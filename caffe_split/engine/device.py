"""Where a training runs."""

from __future__ import annotations

import ctypes

import torch

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.nets import read_solver


def choose_device(asked: str | None, solver: str) -> torch.device:
    """The device asked for, else what the solver's solver_mode says where it is written, else the CPU.

    Raises `CaffeSplitError` where CUDA is wanted and none is there.
    """
    document = read_solver(solver)
    says_gpu = document.has("solver_mode") and document.get("solver_mode") == "GPU"
    if asked == "cpu" or (asked is None and not says_gpu):
        return torch.device("cpu")
    if not torch.cuda.is_available():
        who = "--device cuda" if asked else f"{solver} says solver_mode: GPU"
        raise CaffeSplitError(f"{who}, but PyTorch sees no CUDA device here; give --device cpu")
    number = int(document.get("device_id"))
    if number >= torch.cuda.device_count():
        raise CaffeSplitError(f"{solver}: device_id is {number}; there are {torch.cuda.device_count()} CUDA devices")
    return torch.device("cuda", number)


def keep_memory() -> None:
    """Have the C library keep freed memory for the next iteration, where it is glibc; else do nothing.

    It would give the large blobs back to the system and take them anew at every layer, page by page: a quarter of an
    iteration of cifar10_quick on a processor, a sixth of ResNet-20's. The most that a training holds stays the same.
    """
    mmap_threshold, trim_threshold = -3, -1
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)
