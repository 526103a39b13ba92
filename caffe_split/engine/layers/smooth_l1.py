"""The loss of Fast R-CNN's boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops


class SmoothL1Loss(Layer):
    """The sum of f(d), divided by the number of records; d is the difference of the first two bottoms.

    f(d) is (sigma d)^2 / 2 where |d| < 1 / sigma^2, else |d| - 1 / (2 sigma^2) (Girshick, Fast R-CNN). A third bottom
    multiplies d, a fourth f(d).
    """

    options_name = "smooth_l1_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        for shape in bottoms[1:]:
            if math.prod(shape) != math.prod(bottoms[0]):
                raise self.error(f"bottoms of shapes {bottoms[0]} and {shape}; expected as many values.")
        self.need_same_records(bottoms)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        first, second, *weights = (bottom.reshape(-1) for bottom in bottoms)
        difference = first - second
        if weights:
            difference = difference * weights[0].detach()
        square = float(self.options.get("sigma")) ** 2
        size = difference.abs()
        losses = torch.where(size < 1 / square, square / 2 * difference * difference, size - 0.5 / square)
        if len(weights) > 1:
            losses = losses * weights[1].detach()
        return (losses.sum() / bottoms[0].shape[0],)
