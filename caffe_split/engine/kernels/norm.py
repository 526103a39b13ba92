"""Normalising a batch, the scale and bias after it, a sum and ReLU as one operation of PyTorch, with its gradient."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

import torch
from torch.autograd.function import once_differentiable

from caffe_split.engine.kernels.build import library, required_library

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
    *,
    twice: bool = False,
) -> tuple[torch.Tensor, ...]:
    """(x - mean) / sqrt(variance + eps) * weight + bias + other, and then ReLU where `cuts`, as one or two tensors.

    Args:
        x: the batch, (N, C) or (N, C, H, W); `fits` has to hold. Mean and variance are those of each channel.
        other: what is added, as x; None for nothing.
        weight: (C,); None for 1.
        bias: (C,); None for 0.
        cuts: whether a ReLU is after it.
        batch: eps, moving_average_fraction, and the running statistics, which are updated.
        others: the processes whose rows count, too; None for this one alone.
        twice: return it a second time, over the same memory, for another reader: the kernel then adds the gradients of
            the two, which otherwise takes a pass of its own.
    """
    apply: Callable[..., tuple[torch.Tensor, ...]] = _Normalised.apply
    return apply(x, other, weight, bias, cuts, batch, others, twice)


def scaled_by(x: torch.Tensor, other: torch.Tensor | None, numbers: torch.Tensor, cuts: bool) -> torch.Tensor:
    """(x - mean) * factor + bias + other, and then ReLU where `cuts`; without a gradient. Else as `normalised`.

    numbers: (4, C), of which rows 0, 2 and 3 are mean, factor and bias.
    """
    found, channels = required_library(), x.shape[1]
    out = torch.empty_like(x)
    found.norm_forward(
        _TYPES[x.dtype],
        x.data_ptr(),
        None if other is None else other.data_ptr(),
        x.numel() // channels,
        channels,
        numbers.data_ptr(),
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
    # Mean, 1 / deviation, that times the weight, and the bias.
    numbers = torch.empty(4, channels, dtype=torch.float32, device=x.device)
    found = required_library()
    if others is not None:
        _of_all(x, weight, batch, others, numbers)
        numbers[3] = 0 if bias is None else bias
        return scaled_by(x, other, numbers, cuts), numbers
    found.norm_batch(
        _TYPES[x.dtype],
        x.data_ptr(),
        x.numel() // channels,
        channels,
        eps,
        fraction,
        None if weight is None else weight.data_ptr(),
        None if bias is None else bias.data_ptr(),
        numbers.data_ptr(),
        *(each.data_ptr() for each in running),
    )
    return scaled_by(x, other, numbers, cuts), numbers


def _of_all(
    x: torch.Tensor,
    weight: torch.Tensor | None,
    batch: tuple[float, float, Running],
    others: Others,
    numbers: torch.Tensor,
) -> None:
    """Fill three rows of `numbers` as the kernel for one process does, by all rows; the running statistics, too."""
    eps, fraction, running = batch
    found, channels = required_library(), x.shape[1]
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
    gradients: Sequence[torch.Tensor],
    out: torch.Tensor | None,
    x: torch.Tensor,
    numbers: torch.Tensor,
    adds: bool,
    cuts: bool,
    others: Others | None = None,
) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor, torch.Tensor]:
    """The gradients of x, of what was added (None unless `adds`), of the weight and of the bias.

    gradients: of the result, one or two to be added up. out: the result, where `keeps_result` says so, else None.
    numbers: from `forward`.
    """
    gradient, *more = (dense(each.to(x.dtype)) for each in gradients)
    channels = x.shape[1]
    rows = x.numel() // channels
    # Of the weight and of the bias.
    of_weight, of_bias = (torch.empty(channels, dtype=torch.float32, device=x.device) for _ in range(2))
    back = torch.empty_like(x)
    # Without a ReLU the other blob of a sum gets the one gradient as it is.
    passed = torch.empty_like(x) if more or (adds and cuts) else None
    found = required_library()
    places = (rows, channels, numbers.data_ptr(), cuts)
    read = (
        _TYPES[x.dtype],
        gradient.data_ptr(),
        more[0].data_ptr() if more else None,
        None if out is None else out.data_ptr(),
        x.data_ptr(),
    )
    written = None if passed is None else passed.data_ptr()
    if others is None:
        found.norm_backward(*read, *places, of_weight.data_ptr(), of_bias.data_ptr(), written, back.data_ptr())
    else:
        sums = torch.empty(2, channels, dtype=torch.float64, device=x.device)
        found.norm_sums_back(*read, *places, written, sums.data_ptr())
        of_bias.copy_(sums[0])
        of_weight.copy_(sums[1] * numbers[1])
        # These are gradients of the sum of all processes' losses; the mean of gradients later makes that the mean loss.
        means = others.total(sums) / (rows * others.size)
        found.norm_apply_back(*read[:2], x.data_ptr(), *places, means.data_ptr(), written, back.data_ptr())
    return back, (gradient if passed is None else passed) if adds else None, of_weight, of_bias


def keeps_result(other: torch.Tensor | None, cuts: bool) -> bool:
    """Whether `backward` needs the result: without a sum it computes once more what a ReLU has let pass."""
    return cuts and other is not None


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
        twice: bool,
    ) -> tuple[torch.Tensor, ...]:
        out, numbers = forward(x, other, weight, bias, cuts, batch, others)
        ctx.others, ctx.cuts = others, cuts
        ctx.save_for_backward(x, out if keeps_result(other, cuts) else None, numbers)
        ctx.set_materialize_grads(False)
        return (out, out.view_as(out)) if twice else (out,)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: torch.Tensor | None) -> tuple[torch.Tensor | None, ...]:
        x, out, numbers = ctx.saved_tensors
        needs = ctx.needs_input_grad
        given = [each for each in gradients if each is not None]
        back, passed, of_weight, of_bias = backward(given, out, x, numbers, needs[1], ctx.cuts, ctx.others)
        return back, passed, of_weight if needs[2] else None, of_bias if needs[3] else None, None, None, None, None
