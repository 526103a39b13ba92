"""Pooling by compiled kernels, as an operation of PyTorch with its gradient."""

from __future__ import annotations

import ctypes
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from caffe_split.engine.kernels import norm
from caffe_split.engine.kernels.build import library, required_library

_TYPES = {torch.float32: 0, torch.bfloat16: 1}
_MOST_PLACES = 256


def fits(x: torch.Tensor, kernel: Sequence[int]) -> bool:
    """Whether the kernels can pool x, (N, C, H, W), by windows of that size: on a processor, channels side by side."""
    if x.device.type != "cpu" or x.dtype not in _TYPES or not x.numel() or library() is None:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and kernel[0] * kernel[1] <= _MOST_PLACES


def pooled(x: torch.Tensor, window: Sequence[int], size: tuple[int, int], largest: bool) -> torch.Tensor:
    """The largest value of each window, or its mean by Caffe's rules; `fits` has to hold.

    window: kernel, stride and pad, each vertical and horizontal. size: height and width of the result.
    """
    apply: Callable[..., torch.Tensor] = _Pooled.apply
    return apply(x, tuple(window), size, largest)


class _Pooled(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, window: tuple[int, ...], size: tuple[int, int], largest: bool
    ) -> torch.Tensor:
        n, c, height, width = x.shape
        numbers = (n, height, width, c, *window, *size)
        shape = (ctypes.c_int64 * len(numbers))(*numbers)
        top = torch.empty((n, c, *size), dtype=x.dtype, device=x.device, memory_format=torch.channels_last)
        found = required_library()
        ctx.shape, ctx.form, ctx.place = shape, x.shape, None
        if largest:
            place = torch.empty(top.shape, dtype=torch.uint8, device=x.device) if x.requires_grad else None
            pointer = None if place is None else place.data_ptr()
            found.pool_maximum(_TYPES[x.dtype], shape, x.data_ptr(), top.data_ptr(), pointer)
            ctx.place = place
        else:
            found.pool_mean(_TYPES[x.dtype], shape, x.data_ptr(), top.data_ptr())
        return top

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        given = norm.dense(gradients[0])
        back = torch.empty(ctx.form, dtype=given.dtype, device=given.device, memory_format=torch.channels_last)
        found = required_library()
        place = None if ctx.place is None else ctx.place.data_ptr()
        found.pool_backward(_TYPES[given.dtype], ctx.shape, given.data_ptr(), place, back.data_ptr())
        return back, None, None, None
