"""Layers that compute each value of the top from the one value of the bottom at the same place, x below."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill


class ReLU(Layer):
    """x where x > 0, else negative_slope * x."""

    options_name = "relu_param"
    # Set by the net where nothing else needs the values of the bottom.
    in_place = False

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        slope = self.options.get("negative_slope")
        if slope:
            # Written over, the sign of a value would not be known any more under a negative slope.
            return (functional.leaky_relu(bottoms[0], slope, inplace=self.in_place and slope > 0),)
        return (functional.relu(bottoms[0], inplace=self.in_place),)


class PReLU(Layer):
    """x where x > 0, else slope * x, with a learnt slope per channel, or one for all (channel_shared)."""

    options_name = "prelu_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.need_axes(bottoms[0], 2, 4)
        (shape,) = self.inferred(bottoms).params
        if self.options.has("filler"):
            self.blobs = [fill(shape, self.options.sub("filler"), self.place.generator)]
        else:
            self.blobs = [torch.full(shape, 0.25)]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, slope = bottoms[0], self.blobs[0].to(bottoms[0].dtype)
        if slope.dim():
            slope = slope.view(1, -1, *[1] * (x.dim() - 2))
        return (torch.where(x > 0, x, slope * x),)


class ELU(Layer):
    """x where x > 0, else alpha * (e^x - 1)."""

    options_name = "elu_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.elu(bottoms[0], self.options.get("alpha")),)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        alpha = self.options.get("alpha")
        return [gradient * torch.where(now[0] > 0, torch.ones_like(top), alpha + top)]


class Sigmoid(Layer):
    """1 / (1 + e^-x)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (torch.sigmoid(bottoms[0]),)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        return [gradient * top * (1 - top)]


class TanH(Layer):
    """The hyperbolic tangent."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (torch.tanh(bottoms[0]),)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        return [gradient * (1 - top * top)]


class AbsVal(Layer):
    """|x|."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].abs(),)


class BNLL(Layer):
    """log(1 + e^x), the binomial normal log likelihood."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.softplus(bottoms[0], threshold=60),)


class Swish(Layer):
    """x / (1 + e^(-beta x))."""

    options_name = "swish_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0] * torch.sigmoid(self.options.get("beta") * bottoms[0]),)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        beta = self.options.get("beta")
        # In double precision, as in Caffe: an overwritten top may be large, and the two terms nearly cancel out.
        kept, value = torch.sigmoid(beta * given[0]).double(), (beta * top).double()
        return [(gradient * (value + kept * (1 - value))).to(gradient.dtype)]


class Clip(Layer):
    """x limited to the range from min to max."""

    options_name = "clip_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].clamp(self.options.get("min"), self.options.get("max")),)


class Threshold(Layer):
    """1 where x > threshold, else 0. No gradient."""

    options_name = "threshold_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return ((bottoms[0] > self.options.get("threshold")).float(),)


class Power(Layer):
    """(shift + scale * x)^power."""

    options_name = "power_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        power, scale, shift = (self.options.get(name) for name in ("power", "scale", "shift"))
        if power * scale == 0:
            # The gradient is 0, but there is one: an Eltwise in place after it has to know.
            everywhere = torch.ones((), dtype=torch.bool, device=bottoms[0].device)
            # Not masked_fill, which would lay the channels of a pixel apart.
            return (torch.where(everywhere, bottoms[0].new_tensor(1.0 if power == 0 else shift**power), bottoms[0]),)
        out = bottoms[0]
        if scale != 1:
            out = out * scale
        if shift != 0:
            out = out + shift
        return (out.pow(power) if power != 1 else out,)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        power, scale, shift = (self.options.get(name) for name in ("power", "scale", "shift"))
        factor = power * scale
        if factor == 0 or power == 1:
            slope = torch.full_like(gradient, factor)
        elif power == 2:
            slope = factor * scale * now[0] + factor * shift
        elif shift == 0:
            slope = power * (top / now[0])
        else:
            slope = factor * (top / (now[0] * scale + shift))
        # In place, Caffe writes the slope over the gradient by which it then multiplies it.
        return [slope * (slope if self.overwrites else gradient)]


class Exp(Layer):
    """base^(shift + scale * x); a base of -1 stands for e."""

    options_name = "exp_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        base, scale, shift = (self.options.get(name) for name in ("base", "scale", "shift"))
        log = 1.0 if base == -1 else math.log(base)
        return (torch.exp(bottoms[0] * (scale * log) + shift * log),)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        base = self.options.get("base")
        return [gradient * top * (self.options.get("scale") * (1.0 if base == -1 else math.log(base)))]


class Log(Layer):
    """The logarithm of shift + scale * x; a base of -1 stands for e."""

    options_name = "log_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        base, scale, shift = (self.options.get(name) for name in ("base", "scale", "shift"))
        out = torch.log(bottoms[0] * scale + shift)
        return (out if base == -1 else out / math.log(base),)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        base, scale, shift = (self.options.get(name) for name in ("base", "scale", "shift"))
        slope = scale / (now[0] * scale + shift) / (1.0 if base == -1 else math.log(base))
        # In place, Caffe writes the slope over the gradient by which it then multiplies it.
        return [slope * (slope if self.overwrites else gradient)]


class Dropout(Layer):
    """In TRAIN, each value becomes 0 with probability dropout_ratio, else it is divided by 1 - dropout_ratio.

    Without scale_train (Faster R-CNN) values are multiplied by 1 - dropout_ratio in TEST instead. With
    sample_weights_test (Bayesian SegNet) values are dropped in TEST, too.
    """

    options_name = "dropout_param"
    draws = True

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.ratio = float(self.options.get("dropout_ratio"))
        self.drops = self.training or bool(self.options.get("sample_weights_test"))
        if self.drops and self.ratio == 1:
            raise self.error("dropout_ratio: 1; Caffe divides by 0 where values are dropped.")

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        kept = functional.dropout(bottoms[0], self.ratio, self.drops)
        return (kept if self.options.get("scale_train") else kept * (1 - self.ratio),)
