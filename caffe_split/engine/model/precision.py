"""The precision with which a net computes.

`fp32` is Caffe's. `tf32` (CUDA only) rounds the factors of convolutions and inner products to 10 bits of mantissa.
`bf16` runs convolutions, inner products and the layers between them on bfloat16 values (7 bits of mantissa). Weights,
their history, updates, BatchNorm's statistics, losses and accuracies stay fp32. TEST nets stay fp32 as well, so that a
test's accuracy is that of the saved weights.
"""

from __future__ import annotations

import contextlib

import torch

from caffe_split.errors import CaffeSplitError

PRECISIONS = ("fp32", "tf32", "bf16")


def check_precision(precision: str, device: torch.device) -> None:
    """Raises `CaffeSplitError` for tf32 without CUDA."""
    if precision == "tf32" and device.type != "cuda":
        raise CaffeSplitError("--precision tf32 is for CUDA devices; this training runs on the CPU: take fp32 or bf16")


def set_precision(precision: str, device: torch.device) -> None:
    """Set the precision of the whole process. Raises `CaffeSplitError` as `check_precision` does."""
    check_precision(precision, device)
    torch.backends.cuda.matmul.allow_tf32 = precision == "tf32"
    torch.backends.cudnn.allow_tf32 = precision == "tf32"


def lower(device: torch.device, precision: str) -> contextlib.AbstractContextManager[object]:
    """The context in which a net's layers run: autocast for bf16, else an empty one."""
    if precision == "bf16":
        return torch.autocast(device.type, torch.bfloat16)
    return contextlib.nullcontext()
