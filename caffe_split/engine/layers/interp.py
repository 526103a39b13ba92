"""DeepLab's Interp: bilinear, with the corners of top and bottom on each other."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops


class Interp(Layer):
    """The bottom, cropped by -pad_beg and -pad_end on its sides, in the size of the top."""

    options_name = "interp_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        (top,) = self.inferred(bottoms).tops
        self.size = top[2], top[3]
        self.first, self.cut = -int(self.options.get("pad_beg")), -int(self.options.get("pad_end"))

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        height, width = x.shape[2:]
        x = x[:, :, self.first : height - self.cut, self.first : width - self.cut]
        return (functional.interpolate(x, self.size, mode="bilinear", align_corners=True),)


class BilinearInterpolation(Layer):
    """The first bottom in the height and width of the second, with the corners on each other."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        size = bottoms[1].shape[2:]
        return (functional.interpolate(bottoms[0], size, mode="bilinear", align_corners=True),)
