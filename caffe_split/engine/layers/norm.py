"""Layers that normalise over a batch, an image, or the neighbourhood of a value."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.kernels import norm as kernel
from caffe_split.engine.layers.base import MOST_AXES, Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill
from caffe_split.engine.parallel import sync_norm
from caffe_split.engine.parallel.group import ALONE
from caffe_split.net import norm_forks


class BatchNorm(Layer):
    """Each channel with mean 0 and variance 1: (x - mean) / sqrt(variance + eps).

    In TRAIN, mean and variance are those of the batch, and running sums of them are kept. In TEST, or with
    use_global_stats, they are these sums divided by their weight. The blobs are the sum of means (C,), the
    sum of variances (C,), and the weight of both (1,); before each addition they are multiplied by
    moving_average_fraction.

    In forks a factor and a shift per channel follow as a fourth and a fifth blob. NVCaffe then keeps running means
    instead of sums, leaves the weight at 0 and takes an eps of at least 1e-5. Files of either kind are read: a weight
    of 0 means that the blobs before it are means.
    """

    options_name = "batch_norm_param"
    # How many batches the training has seen, those before it was resumed included.
    batches = 0

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.need_axes(bottoms[0], 2, MOST_AXES)
        found = self.inferred(bottoms)
        self.blobs = [torch.zeros(shape) for shape in found.state]
        self.values = math.prod(bottoms[0]) // len(self.blobs[0])
        self.own = bool(found.params)
        self.nvcaffes = norm_forks.is_nvcaffes(self.text)
        self.eps = max(self.options.get("eps"), 1e-5) if self.nvcaffes else self.options.get("eps")
        if self.eps < 0:
            raise self.error(f"eps: {self.options.get('eps')}; expected 0 or more.")
        names = ("scale_filler" if self.nvcaffes else "filler", "bias_filler")
        for shape, name, default in zip(found.params, names, (1.0, 0.0)):
            filler = self.options.sub(name)
            written = self.options.has(name)
            blob = fill(shape, filler, self.place.generator) if written else torch.full(shape, default)
            self.blobs.append(blob)
        written = self.options.has("use_global_stats")
        self.is_global = bool(self.options.get("use_global_stats")) if written else not self.training

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (self.scaled(bottoms[0], None, None),)

    @property
    def shares(self) -> bool:
        """Whether the statistics are those of the batch of all processes."""
        return self.place.group.sync_norms and self.place.group.speaks

    def has_kernel(self, axes: int) -> bool:
        """Whether the compiled kernels can normalise batches on processors, with that many axes and a gradient."""
        usual = not (self.own or self.is_global or self.shares or self.values == 1)
        return usual and self.eps > 0 and axes in (2, 4)

    def by_kernels(
        self,
        x: torch.Tensor,
        weight: torch.Tensor | None,
        bias: torch.Tensor | None,
        other: torch.Tensor | None,
        *,
        cuts: bool,
        twice: bool,
    ) -> tuple[torch.Tensor, ...] | None:
        """As `scaled`, plus `other`, if given, and then ReLU where `cuts`; None where no compiled kernel does that.

        twice: as in `kernels.norm.normalised`.
        """
        if self.own:
            return None
        eps = self.options.get("eps")
        if eps <= 0 or self.values == 1 or not kernel.fits(x, other):
            return None
        mean, variance, gathered = self.blobs
        if not self.is_global:
            running = (mean, variance, gathered)
            fraction = self.options.get("moving_average_fraction")
            others = self.place.group if self.shares else None
            return kernel.normalised(x, other, weight, bias, cuts, (eps, fraction, running), others, twice=twice)
        if torch.is_grad_enabled():
            return None
        share = 1 / float(gathered) if float(gathered) else 0.0
        factor = (variance * share + eps).rsqrt()
        factor = factor if weight is None else factor * weight
        bias = torch.zeros_like(mean) if bias is None else bias
        out = kernel.scaled_by(x, other, torch.stack([mean * share, factor, factor, bias]), cuts)
        return (out, out) if twice else (out,)

    def scaled(self, x: torch.Tensor, weight: torch.Tensor | None, bias: torch.Tensor | None) -> torch.Tensor:
        """Normalise x (N, C, ...), and in the same pass multiply by `weight` (C,) and add `bias` (C,), if given."""
        eps = self.eps
        mean, variance, gathered, *own = self.blobs
        if self.own:
            factor, shift = own
            bias = bias if weight is None else shift * weight if bias is None else shift * weight + bias
            bias = shift if bias is None else bias
            weight = factor if weight is None else factor * weight
        if self.is_global:
            # With a weight of 0, nothing was added yet; Caffe then takes a mean and a variance of 0.
            empty = torch.ones_like(gathered) if self.own else torch.zeros_like(gathered)
            scale = torch.where(gathered == 0, empty, 1 / gathered)
            return functional.batch_norm(x, mean * scale, variance * scale, weight, bias, False, 0.0, eps)
        group = self.place.group
        if self.shares and not x.is_meta:
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
                self._gather(batch_mean, batch_variance)
        return out

    def _gather(self, batch_mean: torch.Tensor, batch_variance: torch.Tensor) -> None:
        """Add a batch's mean, and its variance times m / (m - 1), to what is kept."""
        mean, variance, gathered, *_ = self.blobs
        fraction = self.options.get("moving_average_fraction")
        if not self.nvcaffes:
            mean.mul_(fraction).add_(batch_mean)
            variance.mul_(fraction).add_(batch_variance)
            gathered.mul_(fraction).add_(1)
            return
        # NVCaffe copies the first two batches' and takes the variance as the mean of squares.
        fraction = 0.0 if self.batches < 2 else fraction
        self.batches += 1
        plain = (self.values - 1) / self.values if self.values > 1 else 1.0
        mean.mul_(fraction).add_(batch_mean, alpha=1 - fraction)
        variance.mul_(fraction).add_(batch_variance, alpha=(1 - fraction) * plain)


class LRN(Layer):
    """Local response normalisation: x / (k + alpha / n * (sum of squares over n neighbours))^beta.

    The n neighbours are `local_size` channels at the same place (ACROSS_CHANNELS), or local_size^2 places of the same
    channel (WITHIN_CHANNEL), where Caffe takes k as 1. In place across channels, Caffe gives the square of the factor
    of x instead, since x is overwritten by the factor before both are multiplied.
    """

    options_name = "lrn_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.need_axes(bottoms[0], 4, 4)
        self.across = self.options.get("norm_region") == "ACROSS_CHANNELS"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        factor = self._scale(bottoms[0]).pow(-self.options.get("beta"))
        return (factor * (factor if self.across and self.overwrites else bottoms[0]),)

    def _scale(self, x: torch.Tensor) -> torch.Tensor:
        """What is raised to the power of -beta."""
        alpha = float(self.options.get("alpha"))
        if self.across:
            alpha /= int(self.options.get("local_size"))
            return self._neighbours(x * x) * alpha + float(self.options.get("k"))
        return self._mean(x * x) * alpha + 1

    def _neighbours(self, x: torch.Tensor) -> torch.Tensor:
        """The sums over `local_size` channels."""
        size = self.options.get("local_size")
        half = (size - 1) // 2
        # `unfold` lays the neighbours of each channel along a last axis.
        return functional.pad(x, (0, 0, 0, 0, half, half)).unfold(1, size, 1).sum(-1)

    def _mean(self, x: torch.Tensor) -> torch.Tensor:
        """The means over local_size^2 places."""
        size = self.options.get("local_size")
        return functional.avg_pool2d(x, size, 1, (size - 1) // 2)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        size, alpha, beta = (self.options.get(name) for name in ("local_size", "alpha", "beta"))
        scale = self._scale(given[0])
        factor = scale.pow(-beta)
        if not self.across:
            inner = self._mean(now[0] * gradient * factor / scale * (-alpha * beta))
            return [gradient * factor + 2 * now[0] * inner]
        # In place, the factor has overwritten the gradient by which it is multiplied.
        gradient = factor * factor if self.overwrites else gradient
        direct = gradient if self.overwrites else gradient * factor
        return [direct - 2 * alpha * beta / size * now[0] * self._neighbours(gradient * top / scale)]


class MVN(Layer):
    """Each image with mean 0 and, if normalize_variance, deviation 1, per channel or across_channels.

    The deviation that it divides by is sqrt(variance) + eps. The top always has four axes, (N, C, height, width).
    """

    options_name = "mvn_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.need_axes(bottoms[0], 1, 4)
        self.shape = (*bottoms[0], *[1] * (4 - len(bottoms[0])))
        self.axes = (1, 2, 3) if self.options.get("across_channels") else (2, 3)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0].reshape(self.shape)
        out = x - x.mean(self.axes, keepdim=True)
        if self.options.get("normalize_variance"):
            variance = (out * out).mean(self.axes, keepdim=True)
            divisor = variance.detach().sqrt() + self.options.get("eps")
            # The gradient is Caffe's, which divides by the deviation with eps added; so it is finite where that is 0.
            out = out / (divisor + (variance - variance.detach()) / (2 * divisor))
        return (out,)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None] | None:
        if not self.options.get("normalize_variance"):
            return None
        x = given[0].reshape(self.shape)
        divisor = x.var(self.axes, unbiased=False, keepdim=True).sqrt() + self.options.get("eps")
        count = math.prod(self.shape[axis] for axis in self.axes)
        inner = top * (top * gradient).sum(self.axes, keepdim=True)
        # In place, this product has overwritten the gradient.
        gradient = inner if self.overwrites else gradient
        inner = inner + gradient.sum(self.axes, keepdim=True)
        out = -2 / count * inner if self.overwrites else gradient - inner / count
        return [(out / divisor).reshape(given[0].shape)]
