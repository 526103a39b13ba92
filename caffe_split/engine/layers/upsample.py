"""Layers of forks that undo max-pooling, or enlarge by repeating values."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops


class Upsample(Layer):
    """SegNet's, with two bottoms: each value at the place that the second bottom, a pooling's mask, gives; else 0.

    Where a mask names a place twice, one of the values stands there. YOLO's, with one bottom: each value `scale` times
    in both directions.
    """

    options_name = "upsample_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        (top,) = self.inferred(bottoms).tops
        self.size = top[2], top[3]
        if len(bottoms) > 1 and bottoms[0] != bottoms[1]:
            raise self.error(f"bottoms of shapes {bottoms[0]} and {bottoms[1]}; expected one shape.")
        if min(self.size) < 1:
            raise self.error(f"its top would have the sides {self.size}.")

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        if len(bottoms) == 1:
            return (functional.interpolate(x, scale_factor=self.size[0] // x.shape[2], mode="nearest"),)
        places = bottoms[1].detach().flatten(2).long()
        height, width = self.size
        if places.device.type == "cpu" and places.numel():
            low, high = (int(value) for value in places.aminmax())
            if low < 0 or high >= height * width:
                raise self.error(
                    f"its mask '{self.text.bottoms[1]}' names place {low if low < 0 else high} of an image of "
                    f"{height}x{width}: the top is smaller than the image that was pooled."
                )
        flat = x.new_zeros((*x.shape[:2], height * width))
        return (flat.scatter(2, places, x.flatten(2)).view(*x.shape[:2], height, width),)


class Unpooling(Upsample):
    """DeconvNet's: the same, into squares of `unpool_size`."""

    options_name = "unpooling_param"
