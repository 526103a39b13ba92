"""Layers that normalise."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.parallel import sync_norm


class BatchNorm(Layer):
    """Blobs: running sum of means, running sum of variances, and the weight that both have gathered."""

    options_name = "batch_norm_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.blobs = [torch.zeros(shape) for shape in self.told(bottoms).state]
        self.values = math.prod(bottoms[0]) // len(self.blobs[0])
        written = self.options.has("use_global_stats")
        self.is_global = bool(self.options.get("use_global_stats")) if written else not self.training

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (self.scaled(bottoms[0], None, None),)

    def scaled(self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """Normalise, and in the same pass multiply by a factor a channel and add a bias."""
        if x.dim() == 1:
            return self.scaled(x.view(-1, 1), weight, bias).view(-1)
        eps = self.options.get("eps")
        mean, variance, gathered = self.blobs
        if self.is_global:
            # Nothing gathered yet: Caffe takes a mean and a variance of 0.
            scale = torch.where(gathered == 0, torch.zeros_like(gathered), 1 / gathered)
            return F.batch_norm(x, mean * scale, variance * scale, weight, bias, False, 0.0, eps)
        group = self.place.group
        if group.sync_norms and group.speaks and not x.is_meta:
            out, batch_mean, batch_variance = sync_norm.norm(x, weight, bias, eps, group)
        elif self.values == 1:
            # One value a channel has no variance, and PyTorch refuses it.
            centred = (x - x) * eps**-0.5
            batch_mean, batch_variance = x.detach().reshape(-1), torch.zeros_like(variance)
            out = centred if weight is None else centred * weight.view(1, -1, *[1] * (x.dim() - 2))
            out = out if bias is None else out + bias.view(1, -1, *[1] * (x.dim() - 2))
        else:
            # With momentum 1 these are the batch's own mean and its variance times m / (m - 1), Caffe's correction.
            batch_mean, batch_variance = torch.zeros_like(mean), torch.ones_like(variance)
            out = F.batch_norm(x, batch_mean, batch_variance, weight, bias, True, 1.0, eps)
        if not x.is_meta:
            with torch.no_grad():
                fraction = self.options.get("moving_average_fraction")
                mean.mul_(fraction).add_(batch_mean)
                variance.mul_(fraction).add_(batch_variance)
                gathered.mul_(fraction).add_(1)
        return out


class LRN(Layer):
    options_name = "lrn_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        size, alpha, beta = (self.options.get(name) for name in ("local_size", "alpha", "beta"))
        if self.options.get("norm_region") == "ACROSS_CHANNELS":
            half = (size - 1) // 2
            # A channel's neighbours laid side by side on the third axis.
            squares = F.pad(x * x, (0, 0, 0, 0, half, half)).unfold(1, size, 1).sum(-1)
            return (x * (self.options.get("k") + alpha / size * squares).pow(-beta),)
        squares = F.avg_pool2d(x * x, size, 1, (size - 1) // 2)
        return (x * (1 + alpha * squares).pow(-beta),)


class MVN(Layer):
    """Mean 0 and, when asked, variance 1 of each image, by channel or over all."""

    options_name = "mvn_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        first = 1 if self.options.get("across_channels") else 2
        axes = tuple(range(first, x.dim()))
        out = x - x.mean(axes, keepdim=True)
        if self.options.get("normalize_variance"):
            variance = (out * out).mean(axes, keepdim=True)
            divisor = variance.detach().sqrt() + self.options.get("eps")
            # Going back Caffe has eps within the deviation, which also serves where that is 0.
            out = out / (divisor + (variance - variance.detach()) / (2 * divisor))
        return (out,)
