"""Normalising a batch, the scale and bias behind it, a sum and ReLU as one operation of PyTorch, with its gradient."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import torch

from caffe_split.engine.kernels.build import library

# What the running statistics of a BatchNorm are: sum of means (C,), sum of variances (C,), weight of both (1,).
Running = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class Others(Protocol):
    """The processes whose rows are normalised together; each has equally many."""

    @property
    def size(self) -> int:
        """Their number, this process included."""

    def statistics(self, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance of all rows, from those of this process's rows."""

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes."""


_TYPES = {torch.float32: 0, torch.bfloat16: 1}


def fits(x: torch.Tensor, other: torch.Tensor | None) -> bool:
    """Whether the kernels can normalise x, and add `other` if given: on a processor, the channels side by side."""
    if x.device.type != "cpu" or x.dtype not in _TYPES or not x.numel() or library() is None:
        return False
    return _is_dense(x) and (other is None or (other.dtype == x.dtype and other.shape == x.shape and _is_dense(other)))


def dense(x: torch.Tensor) -> torch.Tensor:
    """The values of x, (N, C) or (N, C, H, W), as (rows, channels): x itself if they lie so."""
    return x.contiguous(memory_format=torch.channels_last if x.dim() == 4 else torch.contiguous_format)


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
    others: Others | None = None,
) -> torch.Tensor:
    """(x - mean) / sqrt(variance + eps) * weight + bias + other, and then ReLU where `cuts`.

    Args:
        x: the batch, (N, C) or (N, C, H, W); `fits` has to hold. Mean and variance are those of each channel.
        other: what is added, as x; None for nothing.
        weight: (C,); None for 1.
        bias: (C,); None for 0.
        cuts: whether a ReLU is behind it.
        batch: eps, moving_average_fraction, and the running statistics, which are updated.
        others: the processes whose rows count, too; None for this one alone.
    """
    apply: Callable[..., torch.Tensor] = _Normalised.apply
    return apply(x, other, weight, bias, cuts, batch, others)


def scaled_by(
    x: torch.Tensor,
    other: torch.Tensor | None,
    mean: torch.Tensor,
    factor: torch.Tensor,
    bias: torch.Tensor,
    cuts: bool,
) -> torch.Tensor:
    """(x - mean) * factor + bias + other, and then ReLU where `cuts`; without a gradient. Else as `normalised`."""
    found, channels = library(), x.shape[1]
    assert found is not None
    out = torch.empty_like(x)
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
    return out


def forward(
    x: torch.Tensor,
    other: torch.Tensor | None,
    weight: torch.Tensor | None,
    bias: torch.Tensor | None,
    cuts: bool,
    batch: tuple[float, float, Running],
    others: Others | None = None,
) -> tuple[torch.Tensor, torch.Tensor]:
    """What `normalised` returns, without a graph; and what `backward` needs of the statistics."""
    eps, fraction, running = batch
    channels = x.shape[1]
    # Mean, 1 / deviation, and that times the weight.
    numbers = torch.empty(3, channels)
    found = library()
    assert found is not None
    if others is not None:
        _of_all(x, weight, batch, others, numbers)
        return scaled_by(x, other, numbers[0], numbers[2], _or_zeros(bias, channels), cuts), numbers
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
    return scaled_by(x, other, numbers[0], numbers[2], _or_zeros(bias, channels), cuts), numbers


def _or_zeros(bias: torch.Tensor | None, channels: int) -> torch.Tensor:
    return torch.zeros(channels) if bias is None else bias


def _of_all(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    batch: tuple[float, float, Running],
    others: Others,
    numbers: torch.Tensor,
) -> None:
    """Fill `numbers` (3, C) as the kernel for one process does, by the rows of all; the running statistics, too."""
    eps, fraction, running = batch
    found, channels = library(), x.shape[1]
    assert found is not None
    rows = x.numel() // channels
    found.norm_statistics(_TYPES[x.dtype], x.data_ptr(), rows, channels, numbers.data_ptr())
    mean, variance = others.statistics(numbers[0], numbers[1])
    numbers[0], numbers[1] = mean, (variance + eps).rsqrt()
    numbers[2] = numbers[1] if weight is None else numbers[1] * weight
    count = rows * others.size
    corrected = variance * (count / (count - 1)) if count > 1 else variance
    for kept, new in zip(running, (mean, corrected, torch.ones(1))):
        kept.mul_(fraction).add_(new)


def backward(
    gradient: torch.Tensor,
    out: torch.Tensor | None,
    x: torch.Tensor,
    numbers: torch.Tensor,
    adds: bool,
    others: Others | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """The gradients of x, of what was added (None unless `adds`), of the weight and of the bias.

    gradient: of the result. out: the result, if a ReLU was behind it, else None. numbers: from `forward`.
    """
    gradient = dense(gradient.to(x.dtype))
    channels = x.shape[1]
    # Of the weight and of the bias.
    of_weight, of_bias = torch.empty(channels), torch.empty(channels)
    back = torch.empty_like(x)
    # Without a ReLU the other blob of a sum gets the gradient as it is.
    passed = torch.empty_like(x) if adds and out is not None else None
    mean = numbers.data_ptr()
    found = library()
    assert found is not None
    if others is not None:
        rows = x.numel() // channels
        places = (
            _TYPES[x.dtype],
            gradient.data_ptr(),
            None if out is None else out.data_ptr(),
            x.data_ptr(),
            rows,
            channels,
            mean,
        )
        sums = torch.empty(2, channels, dtype=torch.float64)
        found.norm_sums_back(*places, out is not None, sums.data_ptr())
        of_bias.copy_(sums[0])
        of_weight.copy_(sums[1] * numbers[1])
        # These are gradients of the sum of all processes' losses; the mean of gradients later makes that the mean loss.
        means = others.total(sums) / (rows * others.size)
        found.norm_apply_back(
            *places,
            mean + 4 * channels,
            mean + 8 * channels,
            out is not None,
            means.data_ptr(),
            None if passed is None else passed.data_ptr(),
            back.data_ptr(),
        )
        return back, (gradient if passed is None else passed) if adds else None, of_weight, of_bias
    found.norm_backward(
        _TYPES[x.dtype],
        gradient.data_ptr(),
        None if out is None else out.data_ptr(),
        x.data_ptr(),
        x.numel() // channels,
        channels,
        mean,
        mean + 4 * channels,
        mean + 8 * channels,
        out is not None,
        of_weight.data_ptr(),
        of_bias.data_ptr(),
        None if passed is None else passed.data_ptr(),
        back.data_ptr(),
    )
    return back, (gradient if passed is None else passed) if adds else None, of_weight, of_bias


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
        others: Others | None,
    ) -> torch.Tensor:
        out, numbers = forward(x, other, weight, bias, cuts, batch, others)
        ctx.others = others
        ctx.save_for_backward(x, out if cuts else None, numbers)
        return out

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, out, numbers = ctx.saved_tensors
        needs = ctx.needs_input_grad
        back, passed, of_weight, of_bias = backward(gradients[0], out, x, numbers, needs[1], ctx.others)
        return back, passed, of_weight if needs[2] else None, of_bias if needs[3] else None, None, None, None
