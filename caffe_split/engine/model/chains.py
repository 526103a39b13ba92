"""A BatchNorm with what stands behind it in a net, run in one pass: Scale, a sum with another blob, ReLU."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch.nn import functional

from caffe_split.engine.layers.base import Layer
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
        scale: the Scale behind it, if any.
        adds: whether an Eltwise is behind them that adds another blob, which is then the second bottom.
        cuts: whether a ReLU is the last one.
    """

    norm: BatchNorm
    last: int
    kernels: bool = True
    scale: Scale | None = None
    adds: bool = False
    cuts: bool = False

    def run(self, given: Sequence[torch.Tensor]) -> torch.Tensor:
        """The top of the last layer. given: the bottom of the BatchNorm, and the other blob of the sum."""
        blobs = [] if self.scale is None else self.scale.blobs
        weight, bias = (*blobs, None, None)[:2]
        other = given[1] if self.adds else None
        if self.kernels:
            out = self.norm.by_kernels(given[0], weight, bias, other, self.cuts)
            if out is not None:
                return out
        out = self.norm.scaled(given[0], weight, bias)
        out = out if other is None else out + other
        return functional.relu(out, inplace=True) if self.cuts else out

    def takes(self, layer: Layer) -> bool:
        """Whether `layer`, which alone reads the chain's top, may be part of it."""
        if isinstance(layer, Scale):
            return self.scale is None and not (self.adds or self.cuts) and layer.is_per_channel()
        if isinstance(layer, Eltwise):
            adds = layer.operation == "SUM" and layer.factors == [1.0, 1.0] and not layer.overwrites
            return adds and not (self.adds or self.cuts)
        return isinstance(layer, ReLU) and not self.cuts and not layer.options.get("negative_slope")
