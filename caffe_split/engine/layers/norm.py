"""Layers that normalise over a batch, an image, or the neighbourhood of a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.parallel import sync_norm
from caffe_split.engine.parallel.group import ALONE


class BatchNorm(Layer):
    """Each channel with mean 0 and variance 1: (x - mean) / sqrt(variance + eps).

    In TRAIN, mean and variance are those of the batch, and running sums of them are kept. In TEST, or with
    use_global_stats, they are these sums divided by their weight. The blobs are the sum of means (C,), the
    sum of variances (C,), and the weight of both (1,); before each addition they are multiplied by
    moving_average_fraction.
    """

    options_name = "batch_norm_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.blobs = [torch.zeros(shape) for shape in self.inferred(bottoms).state]
        self.values = math.prod(bottoms[0]) // len(self.blobs[0])
        written = self.options.has("use_global_stats")
        self.is_global = bool(self.options.get("use_global_stats")) if written else not self.training

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (self.scaled(bottoms[0], None, None),)

    def scaled(self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """Normalise x (N, C, ...), and in the same pass multiply by `weight` (C,) and add `bias` (C,), if given."""
        if x.dim() == 1:
            return self.scaled(x.view(-1, 1), weight, bias).view(-1)
        eps = self.options.get("eps")
        mean, variance, gathered = self.blobs
        if self.is_global:
            # With a weight of 0, nothing was added yet; Caffe then takes a mean and a variance of 0.
            scale = torch.where(gathered == 0, torch.zeros_like(gathered), 1 / gathered)
            return functional.batch_norm(x, mean * scale, variance * scale, weight, bias, False, 0.0, eps)
        group = self.place.group
        if group.sync_norms and group.speaks and not x.is_meta:
            out, batch_mean, batch_variance = sync_norm.norm(x, weight, bias, eps, group)
        elif eps <= 0:
            # PyTorch refuses such an eps in training; Caffe computes with it.
            out, batch_mean, batch_variance = sync_norm.norm(x, weight, bias, eps, ALONE)
        elif self.values == 1:
            # A single value per channel has no variance, and PyTorch refuses to normalise it.
            centred = (x - x) * eps**-0.5
            batch_mean, batch_variance = x.detach().reshape(-1), torch.zeros_like(variance)
            out = centred if weight is None else centred * weight.view(1, -1, *[1] * (x.dim() - 2))
            out = out if bias is None else out + bias.view(1, -1, *[1] * (x.dim() - 2))
        else:
            # With momentum 1 these become the batch's mean, and its variance times m / (m - 1), as Caffe keeps it.
            batch_mean, batch_variance = torch.zeros_like(mean), torch.ones_like(variance)
            out = functional.batch_norm(x, batch_mean, batch_variance, weight, bias, True, 1.0, eps)
        if not x.is_meta:
            with torch.no_grad():
                fraction = self.options.get("moving_average_fraction")
                mean.mul_(fraction).add_(batch_mean)
                variance.mul_(fraction).add_(batch_variance)
                gathered.mul_(fraction).add_(1)
        return out


class LRN(Layer):
    """Local response normalisation: x / (k + alpha / n * (sum of squares over n neighbours))^beta.

    The n neighbours are `local_size` channels at the same place (ACROSS_CHANNELS), or local_size^2 places of the same
    channel (WITHIN_CHANNEL), where Caffe takes k as 1.
    """

    options_name = "lrn_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        size, alpha, beta = (self.options.get(name) for name in ("local_size", "alpha", "beta"))
        if self.options.get("norm_region") == "ACROSS_CHANNELS":
            half = (size - 1) // 2
            # `unfold` lays the neighbours of each channel along a last axis.
            squares = functional.pad(x * x, (0, 0, 0, 0, half, half)).unfold(1, size, 1).sum(-1)
            return (x * (self.options.get("k") + alpha / size * squares).pow(-beta),)
        squares = functional.avg_pool2d(x * x, size, 1, (size - 1) // 2)
        return (x * (1 + alpha * squares).pow(-beta),)


class MVN(Layer):
    """Each image with mean 0 and, if normalize_variance, deviation 1, per channel or across_channels.

    The deviation that it divides by is sqrt(variance) + eps.
    """

    options_name = "mvn_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        first = 1 if self.options.get("across_channels") else 2
        axes = tuple(range(first, x.dim()))
        out = x - x.mean(axes, keepdim=True)
        if self.options.get("normalize_variance"):
            variance = (out * out).mean(axes, keepdim=True)
            divisor = variance.detach().sqrt() + self.options.get("eps")
            # The gradient is Caffe's, which divides by the deviation with eps added; so it is finite where that is 0.
            out = out / (divisor + (variance - variance.detach()) / (2 * divisor))
        return (out,)
