"""SGD and Nesterov by one call of a compiled kernel for several parameters."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from caffe_split.engine.kernels.build import library

Tensors = Sequence[torch.Tensor]


@dataclass(frozen=True)
class Factors:
    """The numbers of an update.

    Attributes:
        rate: the learning rate, with lr_mult.
        decay: the weight decay, with decay_mult.
        momentum: what the history is multiplied by.
        share: what gradients are multiplied by first.
        signs: whether the decay pulls by the sign of a value (L1) instead of the value.
        nesterov: whether the method is Nesterov, not SGD.
    """

    rate: float
    decay: float
    momentum: float
    share: float
    signs: bool
    nesterov: bool


def update(values: Tensors, gradients: Tensors, history: Tensors, factors: Factors) -> bool:
    """Update parameters and their history, and leave the gradients; False, and nothing done, where no kernel can."""
    found = library()
    if found is None or not all(map(_usual, (*values, *gradients, *history))):
        return False
    count, f = len(values), factors
    pointers, lengths = ctypes.c_void_p * count, ctypes.c_int64 * count
    found.update_sgd(
        count,
        *(pointers(*(each.data_ptr() for each in part)) for part in (values, gradients, history)),
        lengths(*(each.numel() for each in values)),
        f.rate,
        f.decay,
        f.momentum,
        f.share,
        f.signs,
        f.nesterov,
    )
    return True


def _usual(x: torch.Tensor) -> bool:
    return x.dtype == torch.float32 and x.is_contiguous() and x.device.type == "cpu"
