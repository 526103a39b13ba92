"""BatchNorm over the batch of all processes, on any device. PyTorch's own SyncBatchNorm is for CUDA only.

On processors the compiled kernels do the same faster (`kernels.norm`), where there are any.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional

from caffe_split.engine.parallel.group import Group, outside_of_graphs

Normed = tuple[torch.Tensor, torch.Tensor, torch.Tensor]


class _Norm(torch.autograd.Function):
    """What one process would compute for the whole batch, forward and backward."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float, group: Group
    ) -> Normed:
        axes = [axis for axis in range(x.dim()) if axis != 1]
        count = group.size * x.numel() // x.shape[1]
        variance, mean = torch.var_mean(x.float(), axes, unbiased=False)
        mean, variance = group.statistics(mean, variance)
        out = functional.batch_norm(x, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(x, weight, mean, (variance + eps).rsqrt())
        ctx.axes, ctx.count, ctx.group, ctx.has_bias = axes, count, group, bias is not None
        corrected = variance * (count / (count - 1)) if count > 1 else variance
        ctx.mark_non_differentiable(mean, corrected)
        return out, mean, corrected

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        x, weight, mean, inverse = ctx.saved_tensors
        form = (1, -1, *[1] * (x.dim() - 2))
        grad = grads[0].float()
        centred = x.float() - mean.view(form)
        ones, along = grad.sum(ctx.axes), (grad * centred).sum(ctx.axes)
        # These are gradients of the sum of all processes' losses; the mean of gradients later makes that the mean loss.
        means = ctx.group.total(torch.stack([ones, along])) / ctx.count
        back = grad - means[0].view(form) - centred * (inverse.square() * means[1]).view(form)
        factor = inverse if weight is None else inverse * weight
        of_weight = None if weight is None else along * inverse
        return (back * factor.view(form)).to(x.dtype), of_weight, ones if ctx.has_bias else None, None, None


@outside_of_graphs
def norm(x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None, eps: float, group: Group) -> Normed:
    """Normalise over the rows of all processes.

    Args:
        x: this process's rows, (N, C, ...); all processes have equally many.
        weight: factors (C,) after normalising; None for 1.
        bias: what is added at last (C,); None for 0.
        eps: added to the variance.
        group: the processes.

    Returns:
        (normalised rows, means (C,), variances (C,)). The variances are multiplied by m / (m - 1), where m is the
        number of values per channel in the whole batch. All processes get the same bits.
    """
    apply: Callable[..., Normed] = _Norm.apply
    return apply(x, weight, bias, eps, group)
