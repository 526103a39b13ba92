"""The BatchNorms with their Scales, and what is computed with them: plainly by PyTorch, or by our own kernels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from gpu_study_parts.layout import Layout


@dataclass(frozen=True)
class Norm:
    """Views of one: factor and bias with their gradients, Caffe's running sums, and the step's sums there and back."""

    factor: torch.Tensor
    factor_gradient: torch.Tensor
    bias: torch.Tensor
    bias_gradient: torch.Tensor
    means: torch.Tensor
    variances: torch.Tensor
    sums: torch.Tensor
    back: torch.Tensor


class Norms:
    """All of a net, side by side: `means` and `variances` are running sums; `gathered` is their weight."""

    def __init__(self, layout: Layout, values: torch.Tensor, gradient: torch.Tensor) -> None:
        program, device = layout.program, values.device
        self.eps, self.fraction = program.eps, program.fraction
        self.counts = [channels for *_, channels in program.norms]
        total = sum(self.counts)
        self.means, self.variances = torch.zeros(total, device=device), torch.zeros(total, device=device)
        self.gathered = torch.zeros(1, device=device)
        self.sums = torch.zeros(4 * total, device=device)
        self.each: list[Norm] = []
        first = 0
        for _, scale, channels in program.norms:
            views = [
                flat[start : start + count]
                for start, count in (layout.places[scale, index] for index in (0, 1))
                for flat in (values, gradient)
            ]
            rows, sums = slice(first, first + channels), self.sums[4 * first : 4 * (first + channels)]
            split = sums[: 2 * channels], sums[2 * channels :]
            self.each.append(Norm(*views, self.means[rows], self.variances[rows], *split))
            first += channels
        starts = [layout.places[program.norms[0][1], index][0] for index in (0, 1)]
        self.factors, self.biases = (values[start : start + total] for start in starts)
        # Norms whose sums the convolution before them has added up.
        self.summed: set[int] = set()
        self.learnt: list[torch.Tensor] = []

    def start(self, own_kernels: bool) -> None:
        """Before the forward of a step."""
        self.gathered.mul_(self.fraction).add_(1)
        if own_kernels:
            self.sums.zero_()
        else:
            self.learnt = [view.detach().requires_grad_() for norm in self.each for view in (norm.factor, norm.bias)]

    def targets(self) -> list[torch.Tensor]:
        """Where the gradients of `learnt` go."""
        return [view for norm in self.each for view in (norm.factor_gradient, norm.bias_gradient)]

    def own(self, blob, number: int, relu: bool, other):
        """BatchNorm and Scale, `other` added, ReLU, in a step; its gradients go to their places by themselves."""
        from gpu_study_parts import kernels

        return kernels.Norm.apply(blob, other, relu, self.each[number], self.eps, self.fraction, number in self.summed)

    def plain(self, blob, number: int, relu: bool, other):
        """The same by PyTorch."""
        norm = self.each[number]
        mean, variance = torch.zeros_like(norm.means), torch.zeros_like(norm.variances)
        factor, bias = self.learnt[2 * number : 2 * number + 2]
        out = functional.batch_norm(blob, mean, variance, factor, bias, True, 1.0, self.eps)
        with torch.no_grad():
            norm.means.mul_(self.fraction).add_(mean)
            norm.variances.mul_(self.fraction).add_(variance)
        out = out if other is None else out + other
        return functional.relu(out) if relu else out

    def tested(self, own_kernels: bool):
        """A function that does it with the running sums, as the TEST phase does."""
        scale = torch.where(self.gathered == 0, torch.zeros_like(self.gathered), 1 / self.gathered)
        a = self.factors * torch.rsqrt(self.variances * scale + self.eps)
        b = self.biases - self.means * scale * a
        parts: Sequence = list(zip(a.split(self.counts), b.split(self.counts)))

        def norm(blob, number: int, relu: bool, other):
            factor, bias = parts[number]
            if own_kernels:
                from gpu_study_parts import kernels

                return kernels.affine(blob, other, relu, factor, bias)
            out = blob * factor.to(blob.dtype).view(1, -1, 1, 1) + bias.to(blob.dtype).view(1, -1, 1, 1)
            out = out if other is None else out + other
            return functional.relu(out) if relu else out

        return norm
