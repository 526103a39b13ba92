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


class Update:
    """Updates the same parameters and their history again and again.

    Args:
        values: the parameters.
        history: what the method remembers of each.
    """

    def __init__(self, values: Tensors, history: Tensors) -> None:
        self._written = (*values, *history)
        self._library = library() if all(map(_usual, self._written)) else None
        self._places: list[int] = []
        self._lengths = (ctypes.c_int64 * len(values))(*(each.numel() for each in values))
        self._pointers = ctypes.c_void_p * len(values)

    def __call__(self, gradients: Tensors, factors: Factors) -> bool:
        """Update by one gradient for each parameter, which stay; False, and nothing done, where no kernel can."""
        if self._library is None or not all(map(_usual, gradients)):
            return False
        places = [each.data_ptr() for each in self._written]
        if places != self._places:
            count, self._places = len(self._lengths), places
            self._values, self._history = self._pointers(*places[:count]), self._pointers(*places[count:])
        f = factors
        self._library.update_sgd(
            len(self._lengths),
            self._values,
            self._pointers(*[each.data_ptr() for each in gradients]),
            self._history,
            self._lengths,
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
