"""Layers of forks that pass their bottoms on as they are: outside of training, or in the forward pass."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Tops
from caffe_split.layertypes.records.passing import spatial_dropout_ratio


class Noise(Layer):
    """In TRAIN, x plus normal noise of the deviation gaussian_std, or uniform up to uniform_range; both around bias."""

    options_name = "noise_param"
    draws = True

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        if not self.training:
            return (x,)
        if self.options.has("gaussian_std"):
            noise = torch.randn_like(x) * self.options.get("gaussian_std")
        else:
            noise = (torch.rand_like(x) * 2 - 1) * self.options.get("uniform_range")
        return (x + noise + self.options.get("bias"),)


class GradientScaler(Layer):
    """x; its gradient is turned around and scaled (Ganin and Lempitsky, domain-adversarial training).

    The factor is -(2 h / (1 + e^(-alpha p)) - h + lower_bound), with h = upper_bound - lower_bound and p the share of
    max_iter iterations that the solver has done, at most 1.
    """

    options_name = "gradient_scaler_param"
    follows_iteration = eager = True

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(_scale_gradient(bottom, -self.coefficient()) for bottom in bottoms)

    def coefficient(self) -> float:
        """By how much the gradient is scaled in this iteration, without the sign."""
        low, high, alpha, last = (
            float(self.options.get(name)) for name in ("lower_bound", "upper_bound", "alpha", "max_iter")
        )
        done = min(1.0, self.iteration / last)
        return 2 * (high - low) / (1 + math.exp(-alpha * done)) - (high - low) + low


class _Scaled(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, factor: float) -> torch.Tensor:
        ctx.factor = factor
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0] * ctx.factor, None


def _scale_gradient(x: torch.Tensor, factor: float) -> torch.Tensor:
    apply: Callable[..., torch.Tensor] = _Scaled.apply
    return apply(x, factor)


class SpatialDropout(Layer):
    """In TRAIN, each channel of a record becomes 0 with probability dropout_ratio, else it is divided by 1 - that.

    Tompson et al., Efficient Object Localization Using Convolutional Networks.
    """

    draws = True

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        kept = functional.dropout(x.new_ones(x.shape[:2]), spatial_dropout_ratio(self.text), self.training)
        return (x * kept.view(*x.shape[:2], *[1] * (x.dim() - 2)),)
