"""SSD's Normalize (Liu et al., ParseNet): values divided by a length, times a learnt factor."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill


class Normalize(Layer):
    """x / sqrt(eps + sum of squares) * factor.

    The sum goes over an image (across_spatial) or over the channels at one place; there is one learnt factor
    (channel_shared) or one per channel. Without norm_param there is none: forks differ in it, and agree on how records
    (N, C) are divided.
    """

    options_name = "norm_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.need_axes(bottoms[0], 2, 4)
        shapes = self.inferred(bottoms).params
        if not shapes:
            return
        (shape,) = shapes
        if self.options.has("scale_filler"):
            self.blobs = [fill(shape, self.options.sub("scale_filler"), self.place.generator)]
        else:
            self.blobs = [torch.ones(shape)]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        axes = list(range(1, x.dim())) if self.options.get("across_spatial") else [1]
        length = ((x * x).sum(axes, keepdim=True) + self.options.get("eps")).sqrt()
        if not self.blobs:
            return (x / length,)
        factor = self.blobs[0]
        if factor.dim():
            factor = factor.view(1, -1, *[1] * (x.dim() - 2))
        return (x / length * factor,)


class NormalizationL2(Layer):
    """Each record divided by its length, the root of the sum of its squares, of nets for faces and vehicles."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        return (x / (x * x).sum(1, keepdim=True).clamp(min=1e-24).sqrt(),)


class GroupNorm(Layer):
    """x minus the mean of its group of channels, by the root of eps plus their variance (Wu and He)."""

    options_name = "group_norm_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.group_norm(bottoms[0], int(self.options.get("group_num")), eps=self.options.get("eps")),)
