"""Functions of single values that forks of Caffe added, x below."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill


class ReLU6(Layer):
    """x limited to 0 and 6."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.relu6(bottoms[0]),)


class Mish(Layer):
    """x * tanh(log(1 + e^x)) (Misra 2019)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.mish(bottoms[0]),)


class HSigmoid(Layer):
    """(x + 3) / 6, limited to 0 and 1 (Howard et al., MobileNetV3)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.hardsigmoid(bottoms[0]),)


class HSwish(Layer):
    """x times (x + 3) / 6 limited to 0 and 1 (Howard et al., MobileNetV3)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.hardswish(bottoms[0]),)


class BReLU(Layer):
    """x limited to the range from minval to maxval (Cai et al., DehazeNet)."""

    options_name = "brelu_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].clamp(self.options.get("minval"), self.options.get("maxval")),)


class SeLu(Layer):
    """lambda x where x > 0, else lambda alpha (e^x - 1) (Klambauer et al., self-normalizing networks)."""

    options_name = "selu_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        scale, alpha = (float(self.options.get(name)) for name in ("lambda", "alpha"))
        return (scale * functional.elu(bottoms[0], alpha),)


class APL(Layer):
    """max(0, x) plus the sum of slope max(0, offset - x), with learnt slopes and offsets for each value of a record.

    Agostinelli et al., Learning Activation Functions to Improve Deep Neural Networks. In the memory of the published
    layer's blobs the slopes of one value lie behind each other.
    """

    options_name = "apl_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        shape, _ = self.inferred(bottoms).params
        if self.options.has("slope_filler"):
            slopes = fill(shape, self.options.sub("slope_filler"), self.place.generator)
        else:
            slopes = torch.empty(shape).uniform_(-0.5, 0.5, generator=self.place.generator) / shape[2]
        if self.options.has("offset_filler"):
            offsets = fill(shape, self.options.sub("offset_filler"), self.place.generator)
        else:
            offsets = torch.empty(shape).normal_(0, 0.5, generator=self.place.generator)
        self.blobs = [slopes, offsets]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        rows = x.reshape(len(x), -1, 1)
        slopes, offsets = (blob.reshape(rows.shape[1], -1) for blob in self.blobs)
        top = rows[..., 0].relu() + (slopes * (offsets - rows).relu()).sum(-1)
        return (top.view(x.shape),)
