"""Layers of FlowNet (Fischer et al.)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops


class Correlation(Layer):
    """How alike windows of two images are, for each place of the first and each displacement in the second.

    The channels are the displacements, row by row, in steps of stride_2 up to max_displacement; the places follow in
    steps of stride_1. A value is the mean of the products over the window and the channels, or of the absolute
    differences (SUBTRACT).
    """

    options_name = "correlation_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        (self.top,) = self.inferred(bottoms).tops

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        pad, kernel, most, stride, step = (
            int(self.options.get(name)) for name in ("pad", "kernel_size", "max_displacement", "stride_1", "stride_2")
        )
        reach = most // step * step
        first, second = (functional.pad(bottom, [pad] * 4) for bottom in bottoms)
        # Windows that begin from `most` on; the border holds all displacements.
        height, width = (stride * (side - 1) + kernel for side in self.top[2:])
        here = first[:, :, most : most + height, most : most + width]
        tops = []
        for down in range(-reach, reach + 1, step):
            for right in range(-reach, reach + 1, step):
                y, x = most + down, most + right
                there = second[:, :, y : y + height, x : x + width]
                alike = here * there if self.options.get("correlation_type") == "MULTIPLY" else (here - there).abs()
                tops.append(functional.avg_pool2d(alike.mean(1, keepdim=True), kernel, stride))
        return (torch.cat(tops, 1),)
