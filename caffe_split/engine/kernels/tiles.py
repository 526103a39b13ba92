"""Convolutions of bfloat16 values whose weights' gradient the compiled kernels compute, by the processor's tiles."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.autograd.function import once_differentiable

from caffe_split.engine.kernels import norm
from caffe_split.engine.kernels.build import library, required_library

# Channels and outputs come in as many as a tile has rows.
_ROWS = 16
# Pixels of a row up to which the kernels are faster than PyTorch's own gradient.
_LONGEST = 24
# Each thread has sums of its own for all weights: so many values of them all together at most, 64 MB.
_MOST_SUMS = 1 << 24


@functools.lru_cache(maxsize=1)
def ready() -> bool:
    """Whether the processor has tiles, and the system gives them to this process."""
    found = library()
    return found is not None and bool(found.tiles_ready())


def fits(x: torch.Tensor, weight: torch.Tensor, pad: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether `convolved` is for them: bfloat16 on a processor, channels side by side, steps of one, small images.

    x: the bottom, (N, C, H, W). weight: (outputs, C, height, width), of one group and without dilation.
    """
    if x.device.type != "cpu" or x.dtype != torch.bfloat16 or not x.numel() or not weight.requires_grad:
        return False
    if x.dim() != 4 or x.shape[1] % _ROWS or len(weight) % _ROWS or x.shape[3] > _LONGEST or set(stride) != {1}:
        return False
    tall, wide = weight.shape[2:]
    if tall * wide == 1 or pad[0] >= tall or pad[1] >= wide:
        return False
    if weight.numel() * torch.get_num_threads() > _MOST_SUMS:
        return False
    return x.is_contiguous(memory_format=torch.channels_last) and ready()


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, pad: Sequence[int]) -> torch.Tensor:
    """The convolution in bfloat16; `fits` has to hold. Its weights' gradient is summed in float32 and not rounded.

    Args:
        x: the bottom, (N, C, H, W).
        weight: (outputs, C, height, width), float32.
        bias: (outputs,), float32; None for 0.
        pad: zeros around the bottom, above and beside.
    """
    apply: Callable[..., torch.Tensor] = _Convolved.apply
    return apply(x, weight, bias, tuple(pad))


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, pad: tuple[int, int]
    ) -> torch.Tensor:
        low = weight.to(torch.bfloat16)
        ctx.save_for_backward(x, low)
        ctx.pad = pad
        return torch.conv2d(x, low, None if bias is None else bias.to(torch.bfloat16), 1, pad)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, low = ctx.saved_tensors
        given = norm.dense(gradients[0].to(torch.bfloat16))
        of_x = of_weight = of_bias = None
        if ctx.needs_input_grad[0]:
            back = torch.ops.aten.convolution_backward
            only = (True, False, False)
            of_x = back(given, x, low, None, (1, 1), ctx.pad, (1, 1), False, (0, 0), 1, only)[0]
        if ctx.needs_input_grad[1]:
            of_weight = torch.empty(low.shape, dtype=torch.float32, device=x.device)
            n, channels, height, width = x.shape
            numbers = (n, height, width, channels, len(low), *low.shape[2:], *ctx.pad)
            shape = (ctypes.c_int64 * len(numbers))(*numbers)
            required_library().tiles_weights(shape, x.data_ptr(), given.data_ptr(), of_weight.data_ptr())
        if ctx.needs_input_grad[2]:
            of_bias = given.sum((0, 2, 3), dtype=torch.float32)
        return of_x, of_weight, of_bias, None
