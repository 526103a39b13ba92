"""Convolutions of 3x3 kernels, steps of one, in float32, which the compiled kernels compute by Winograd's algorithm."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable, Sequence
from typing import Any

import torch

from caffe_split.engine.kernels import norm
from caffe_split.engine.kernels.build import library, required_library

# Channels and outputs come in as many.
_LANES = 16
# Pairs of a channel and an output up to which the transformed kernels stay in the cache.
_MOST_PAIRS = 1 << 17
# Fewer tiles do not pay for transforming the kernels.
_LEAST_TILES = 16


@functools.lru_cache(maxsize=1)
def ready() -> bool:
    """Whether the processor has registers for it (AVX-512, or AVX2 with FMA)."""
    found = library()
    return found is not None and bool(found.winograd_ready())


def fits(x: torch.Tensor, weight: torch.Tensor, pad: Sequence[int], stride: Sequence[int]) -> bool:
    """Whether `convolved` is for them: float32 on a processor, channels side by side, 3x3 kernels with steps of one.

    x: the bottom, (N, C, H, W). weight: (outputs, C, 3, 3), of one group and without dilation.
    """
    if x.device.type != "cpu" or x.dtype != torch.float32 or weight.dtype != torch.float32 or not x.numel():
        return False
    if x.dim() != 4 or weight.shape[2:] != (3, 3) or set(stride) != {1} or max(pad) > 2:
        return False
    if x.shape[1] % _LANES or len(weight) % _LANES or len(weight) * x.shape[1] > _MOST_PAIRS:
        return False
    if torch.is_autocast_enabled("cpu") or not x.is_contiguous(memory_format=torch.channels_last):
        return False
    tall, wide = (x.shape[2 + axis] + 2 * pad[axis] - 2 for axis in (0, 1))
    tiles = -(-tall // 2) * -(-wide // 2)
    # Of tiles that reach over the edge a part is done for nothing.
    return tiles * len(x) >= _LEAST_TILES and tiles * 24 <= tall * wide * 9 and ready()


def convolved(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, pad: Sequence[int]) -> torch.Tensor:
    """The convolution; `fits` has to hold. Up to rounding, which is about that of a direct one.

    Args:
        x: the bottom, (N, C, H, W).
        weight: (outputs, C, 3, 3).
        bias: (outputs,); None for 0.
        pad: zeros around the bottom, above and beside.
    """
    apply: Callable[..., torch.Tensor] = _Convolved.apply
    return apply(x, weight, bias, tuple(pad))


class _Convolved(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, pad: tuple[int, int]
    ) -> torch.Tensor:
        ctx.save_for_backward(x, weight)
        ctx.pad = pad
        n, _, height, width = x.shape
        size = (n, len(weight), height + 2 * pad[0] - 2, width + 2 * pad[1] - 2)
        y = torch.empty(size, dtype=torch.float32, device=x.device, memory_format=torch.channels_last)
        lain, added = weight.contiguous(), None if bias is None else bias.contiguous()
        address = None if added is None else added.data_ptr()
        required_library().winograd_forward(
            _shape(x, weight, pad), x.data_ptr(), lain.data_ptr(), address, y.data_ptr()
        )
        return y

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        (given,) = gradients
        wanted = ctx.needs_input_grad
        if torch.is_grad_enabled():
            # The gradient is to have a gradient itself (create_graph), which PyTorch's own operation has.
            back = torch.ops.aten.convolution_backward
            which = [bool(want) for want in wanted[:3]]
            sizes = [len(weight)] if wanted[2] else None
            return (*back(given, x, weight, sizes, (1, 1), ctx.pad, (1, 1), False, (0, 0), 1, which), None)
        given, shape = norm.dense(given), _shape(x, weight, ctx.pad)
        of_x = of_weight = of_bias = None
        if wanted[0]:
            lain, of_x = weight.contiguous(), torch.empty_like(x)
            required_library().winograd_bottom(shape, given.data_ptr(), lain.data_ptr(), of_x.data_ptr())
        if wanted[1]:
            of_weight = torch.empty(weight.shape, dtype=torch.float32, device=x.device)
            required_library().winograd_weights(shape, x.data_ptr(), given.data_ptr(), of_weight.data_ptr())
        if wanted[2]:
            of_bias = given.sum((0, 2, 3))
        return of_x, of_weight, of_bias, None


def _shape(x: torch.Tensor, weight: torch.Tensor, pad: Sequence[int]) -> ctypes.Array[ctypes.c_int64]:
    n, channels, height, width = x.shape
    return (ctypes.c_int64 * 7)(n, height, width, channels, len(weight), *pad)
