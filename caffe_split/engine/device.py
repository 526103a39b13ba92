"""The device that a training runs on, and its memory."""

from __future__ import annotations

import ctypes

import torch

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.nets import read_solver


def choose_device(asked: str | None, solver: str) -> torch.device:
    """The device to train on.

    `asked` ("cpu" or "cuda") decides; if None, the solver's `solver_mode` where it is written; else it is the CPU.
    Raises `CaffeSplitError` for CUDA where PyTorch finds no such device.
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


def describe_devices() -> str:
    """The CUDA devices that PyTorch sees, in words."""
    names = [torch.cuda.get_device_name(number) for number in range(torch.cuda.device_count())]
    return f"CUDA devices: {', '.join(names)}" if names else "no CUDA device"


# Multiply-adds of a forward run for which a thread more pays.
_WORK_PER_THREAD = 50_000_000


def threads_for(multiply_adds: int, most: int) -> int:
    """The number of threads for a net of this many multiply-adds per batch, from 1 to `most`.

    Threads wait for each other at every layer. Where the layers are small, that takes longer than what they save, and
    many times as long where other programs use the same cores. The number depends on the net alone, not on a
    measurement, since it decides in which order sums are added.

    >>> threads_for(10_000_000, 8), threads_for(120_000_000, 8), threads_for(5_000_000_000, 8)
    (1, 2, 8)
    """
    return max(1, min(most, multiply_adds // _WORK_PER_THREAD))


def keep_memory() -> None:
    """Make glibc keep freed memory for the next iteration; with another C library, do nothing.

    By default glibc returns large blobs to the system and requests them again, page by page, at every layer. That took
    a quarter of an iteration of cifar10_quick on a processor, and a sixth of one of ResNet-20. The peak memory of a
    training does not change.
    """
    mmap_threshold, trim_threshold = -3, -1
    try:
        mallopt = ctypes.CDLL(None).mallopt
    except (OSError, AttributeError):
        return
    mallopt(mmap_threshold, 1 << 30)
    mallopt(trim_threshold, 1 << 30)
