"""A BatchNorm with what stands after it in a net, run in one pass: Scale, a sum with another blob, ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from caffe_split.engine.layers.base import Layer, Shape
from caffe_split.engine.layers.dense import Scale
from caffe_split.engine.layers.norm import BatchNorm
from caffe_split.engine.layers.pointwise import ReLU
from caffe_split.engine.layers.shape import Eltwise


@dataclass(frozen=True)
class Chain:
    """Layers that run in one pass.

    Attributes:
        norm: the BatchNorm, the first one.
        last: the index of the last one among the layers of the net.
        kernels: whether compiled kernels may run it.
        scale: the Scale after it, if any.
        total: the Eltwise after them that adds another blob, which is then the second bottom, if any.
        relu: the ReLU after all, if any.
    """

    norm: BatchNorm
    last: int
    kernels: bool = True
    scale: Scale | None = None
    total: Eltwise | None = None
    relu: ReLU | None = None

    @property
    def layers(self) -> list[Layer]:
        """All of them."""
        every: tuple[Layer | None, ...] = (self.norm, self.scale, self.total, self.relu)
        return [layer for layer in every if layer is not None]

    def follow(self, bottoms: Sequence[Shape]) -> None:
        """Fit all layers to the bottoms of this batch, as `Layer.follow`."""
        for layer in (self.norm, self.scale, self.relu):
            if layer is not None:
                layer.follow(bottoms[:1])
        if self.total is not None:
            self.total.follow(bottoms)

    def run(self, given: Sequence[torch.Tensor], twice: bool) -> tuple[torch.Tensor, ...]:
        """The top of the last layer, once or twice.

        given: the bottom of the BatchNorm, and the other blob of the sum.
        """
        blobs = [] if self.scale is None else self.scale.blobs
        weight, bias = (*blobs, None, None)[:2]
        other = None if self.total is None else given[1]
        if self.kernels:
            tops = self.norm.by_kernels(given[0], weight, bias, other, cuts=self.relu is not None, twice=twice)
            if tops is not None:
                return tops
        out = self.norm.scaled(given[0], weight, bias)
        out = out if other is None else out + other
        out = functional.relu(out, inplace=True) if self.relu is not None else out
        return (out, out) if twice else (out,)

    def takes(self, layer: Layer) -> bool:
        """Whether `layer`, which alone reads the chain's top, may be part of it."""
        if self.relu is not None:
            return False
        if isinstance(layer, Scale):
            return self.scale is None and self.total is None and layer.is_per_channel()
        if isinstance(layer, Eltwise):
            adds = layer.operation == "SUM" and layer.factors == [1.0, 1.0] and not layer.overwrites
            return adds and self.total is None
        return isinstance(layer, ReLU) and not layer.options.get("negative_slope")
