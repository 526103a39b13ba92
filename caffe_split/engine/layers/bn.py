"""BN, the normalisation of forks from before Caffe had BatchNorm, with the factor and the shift inside."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import MOST_AXES, Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill
from caffe_split.net.norm_forks import bn_kind

# SegNet's is fixed.
_EPS_SEGNET = 1e-9


class BN(Layer):
    """(x - mean) / sqrt(variance + eps) * factor + shift, per channel, in one of two forks' ways.

    SegNet's (2 blobs: factor and shift): with bn_mode LEARN the statistics are the batch's, in TEST as well; with
    INFERENCE there are none, as they were worked into the blobs. Temporal segment networks and PSPNet (4 blobs: and the
    running mean and variance): the batch's in TRAIN, of which running means are kept; the running ones in TEST, or
    where it is `frozen`. Both take the variance as the mean of squares.
    """

    options_name = "bn_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.need_axes(bottoms[0], 2, MOST_AXES)
        self.keeps = bn_kind(self.text) == "running"
        if self.keeps and float(self.options.get("eps")) < 0:
            raise self.error(f"eps: {self.options.get('eps')}; expected 0 or more.")
        found = self.inferred(bottoms)
        factor, shift = ("slope_filler", "bias_filler") if self.keeps else ("scale_filler", "shift_filler")
        self.blobs = [
            fill(shape, self.options.sub(name), self.place.generator)
            for shape, name in zip(found.params, (factor, shift))
        ]
        if self.keeps:
            self.blobs += [torch.zeros(found.state[0]), torch.ones(found.state[1])]
        self.values = math.prod(bottoms[0]) // bottoms[0][1]

    @property
    def is_fixed(self) -> bool:
        """Whether the statistics are not the batch's."""
        if self.keeps:
            return bool(self.options.get("frozen")) or not self.training
        return bool(self.options.get("bn_mode") == "INFERENCE")

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        factor, shift, *kept = (blob.reshape(-1) for blob in self.blobs)
        view = (1, -1, *[1] * (x.dim() - 2))
        if self.is_fixed and not self.keeps:
            return (x * factor.view(view).to(x.dtype) + shift.view(view).to(x.dtype),)
        eps = float(self.options.get("eps")) if self.keeps else _EPS_SEGNET
        if self.is_fixed:
            mean, variance = kept
            return (functional.batch_norm(x, mean, variance, factor, shift, False, 0.0, eps),)
        axes = [axis for axis in range(x.dim()) if axis != 1]
        wide = x.float() if x.dtype == torch.bfloat16 else x
        mean = wide.mean(axes, keepdim=True)
        centred = wide - mean
        variance = (centred * centred).mean(axes, keepdim=True)
        out = centred * (variance + eps).rsqrt() * factor.view(view) + shift.view(view)
        if self.keeps and not x.is_meta:
            with torch.no_grad():
                momentum = float(self.options.get("momentum"))
                for blob, value in zip(kept, (mean, variance)):
                    blob.mul_(momentum).add_(value.reshape(-1), alpha=1 - momentum)
        return (out.to(x.dtype),)
