"""Normalising a batch, the scale and bias behind it, a sum and ReLU as one operation of PyTorch, with its gradient."""

from __future__ import annotations

import ctypes
import functools
from collections.abc import Callable
from typing import Any

import torch

from caffe_split.engine.kernels.build import kernels

# What the running statistics of a BatchNorm are: sum of means (C,), sum of variances (C,), weight of both (1,).
Running = tuple[torch.Tensor, torch.Tensor, torch.Tensor]
_TYPES = {torch.float32: 0, torch.bfloat16: 1}


@functools.lru_cache(maxsize=1)
def library() -> ctypes.CDLL | None:
    """The library with the types of its functions; None if there is none."""
    found = kernels().library
    if found is not None:
        p, n, i, f = ctypes.c_void_p, ctypes.c_int64, ctypes.c_int, ctypes.c_float
        found.norm_batch.argtypes = [i, p, n, n, f, f, p, p, p, p, p]
        found.norm_forward.argtypes = [i, p, p, n, n, p, p, p, i, p]
        found.norm_backward.argtypes = [i, p, p, p, n, n, p, p, p, i, p, p, p, p]
    return found


def fits(x: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether the kernels can normalise x, and add `other` if given: on a processor, the channels side by side."""
    if x.device.type != "cpu" or x.dtype not in _TYPES or not x.numel() or library() is None:
        return False
    return _is_dense(x) and (other is None or (other.dtype == x.dtype and other.shape == x.shape and _is_dense(other)))


def _is_dense(x: torch.Tensor) -> bool:
    """Whether the values lie as (rows, channels)."""
    if x.dim() == 2:
        return x.is_contiguous()
    return x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)


def normalised(
    x: torch.Tensor,
    other: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    cuts: bool,
    batch: tuple[float, float, Running],
) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias + other, and then ReLU where `cuts`.

    Args:
        x: the batch, (N, C) or (N, C, H, W); `fits` has to hold. Mean and variance are those of each channel.
        other: what is added, as x; None for nothing.
        weight: (C,); None for 1.
        bias: (C,); None for 0.
        cuts: whether a ReLU is behind it.
        batch: eps, moving_average_fraction, and the running statistics, which are updated.
    """
    apply: Callable[..., torch.Tensor] = _Normalised.apply
    return apply(x, other, weight, bias, cuts, batch)


def scaled_by(
    x: torch.Tensor,
    other: torch.Tensor | None,
    mean: torch.Tensor,
    factor: torch.Tensor,
    bias: torch.Tensor,
    cuts: bool,
) -> torch.Tensor:
    """(x - mean) * factor + bias + other, and then ReLU where `cuts`; without a gradient. Else as `normalised`."""
    out = torch.empty_like(x)
    _forward(x, other, mean, factor, bias, cuts, out)
    return out


def _forward(
    x: torch.Tensor,
    other: torch.Tensor | None,
    *numbers_and_out: Any,
) -> None:
    mean, factor, bias, cuts, out = numbers_and_out
    found, channels = library(), x.shape[1]
    assert found is not None
    found.norm_forward(
        _TYPES[x.dtype],
        x.data_ptr(),
        None if other is None else other.data_ptr(),
        x.numel() // channels,
        channels,
        mean.data_ptr(),
        factor.data_ptr(),
        bias.data_ptr(),
        cuts,
        out.data_ptr(),
    )


class _Normalised(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        x: torch.Tensor,
        other: torch.Tensor | None,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        cuts: bool,
        batch: tuple[float, float, Running],
    ) -> torch.Tensor:
        eps, fraction, running = batch
        channels = x.shape[1]
        # Mean, 1 / deviation, and that times the weight.
        numbers = torch.empty(3, channels)
        found = library()
        assert found is not None
        found.norm_batch(
            _TYPES[x.dtype],
            x.data_ptr(),
            x.numel() // channels,
            channels,
            eps,
            fraction,
            None if weight is None else weight.data_ptr(),
            numbers.data_ptr(),
            *(each.data_ptr() for each in running),
        )
        out = torch.empty_like(x)
        _forward(x, other, numbers[0], numbers[2], torch.zeros(channels) if bias is None else bias, cuts, out)
        ctx.save_for_backward(x, out if cuts else None, numbers)
        ctx.cuts = cuts
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, out, numbers = ctx.saved_tensors
        gradient = gradients[0]
        if gradient.dtype != x.dtype or not _is_dense(gradient):
            layout = torch.channels_last if x.dim() == 4 else torch.contiguous_format
            gradient = gradient.to(x.dtype).contiguous(memory_format=layout)
        channels = x.shape[1]
        sums = torch.empty(2, channels)
        back = torch.empty_like(x)
        needs = ctx.needs_input_grad
        # Without a ReLU the other blob of a sum gets the gradient as it is.
        passed = torch.empty_like(x) if needs[1] and ctx.cuts else None
        found = library()
        assert found is not None
        found.norm_backward(
            _TYPES[x.dtype],
            gradient.data_ptr(),
            None if out is None else out.data_ptr(),
            x.data_ptr(),
            x.numel() // channels,
            channels,
            numbers[0].data_ptr(),
            numbers[1].data_ptr(),
            numbers[2].data_ptr(),
            ctx.cuts,
            sums[0].data_ptr(),
            sums[1].data_ptr(),
            None if passed is None else passed.data_ptr(),
            back.data_ptr(),
        )
        of_other = (passed if ctx.cuts else gradient) if needs[1] else None
        return back, of_other, sums[0] if needs[2] else None, sums[1] if needs[3] else None, None, None
