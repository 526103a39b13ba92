"""Layers of one value at a time."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.model.fillers import fill


class ReLU(Layer):
    options_name = "relu_param"
    # Set by the net where nothing else needs the bottom's values.
    in_place = False

    def run(self, *bottoms: torch.Tensor) -> Tops:
        slope = self.options.get("negative_slope")
        if slope:
            return (F.leaky_relu(bottoms[0], slope, inplace=self.in_place),)
        return (F.relu(bottoms[0], inplace=self.in_place),)


class PReLU(Layer):
    options_name = "prelu_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        (shape,) = self.told(bottoms).params
        if self.options.has("filler"):
            self.blobs = [fill(shape, self.options.sub("filler"), self.place.generator)]
        else:
            self.blobs = [torch.full(shape, 0.25)]

    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, slope = bottoms[0], self.blobs[0].to(bottoms[0].dtype)
        if slope.dim():
            slope = slope.view(1, -1, *[1] * (x.dim() - 2))
        return (x.clamp(min=0) + slope * x.clamp(max=0),)


class ELU(Layer):
    options_name = "elu_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (F.elu(bottoms[0], self.options.get("alpha")),)


class Sigmoid(Layer):
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (torch.sigmoid(bottoms[0]),)


class TanH(Layer):
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (torch.tanh(bottoms[0]),)


class AbsVal(Layer):
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].abs(),)


class BNLL(Layer):
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (F.softplus(bottoms[0], threshold=60),)


class Swish(Layer):
    options_name = "swish_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0] * torch.sigmoid(self.options.get("beta") * bottoms[0]),)


class Clip(Layer):
    options_name = "clip_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].clamp(self.options.get("min"), self.options.get("max")),)


class Threshold(Layer):
    options_name = "threshold_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return ((bottoms[0] > self.options.get("threshold")).float(),)


class Power(Layer):
    """(shift + scale x) ^ power."""

    options_name = "power_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        power, scale, shift = (self.options.get(name) for name in ("power", "scale", "shift"))
        if power * scale == 0:
            return (torch.full_like(bottoms[0], 1.0 if power == 0 else shift**power),)
        out = bottoms[0]
        if scale != 1:
            out = out * scale
        if shift != 0:
            out = out + shift
        return (out.pow(power) if power != 1 else out,)


class Exp(Layer):
    """base ^ (shift + scale x); a base of -1 is e."""

    options_name = "exp_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        base, scale, shift = (self.options.get(name) for name in ("base", "scale", "shift"))
        log = 1.0 if base == -1 else math.log(base)
        return (torch.exp(bottoms[0] * (scale * log) + shift * log),)


class Log(Layer):
    """The logarithm of shift + scale x to a base; a base of -1 is e."""

    options_name = "log_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        base, scale, shift = (self.options.get(name) for name in ("base", "scale", "shift"))
        out = torch.log(bottoms[0] * scale + shift)
        return (out if base == -1 else out / math.log(base),)


class Dropout(Layer):
    options_name = "dropout_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (F.dropout(bottoms[0], self.options.get("dropout_ratio"), self.training),)
