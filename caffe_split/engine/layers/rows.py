"""Layers that choose records, and Im2col, which lays out the windows of a convolution."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.net.geometry import convolution_window


class BatchReindex(Layer):
    """The records of the first bottom whose numbers the second one gives, in its order."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, places = bottoms[0], bottoms[1].detach().long()
        if places.device.type == "cpu" and places.numel():
            low, high = (int(value) for value in places.aminmax())
            if low < 0 or high >= len(x):
                raise self.error(
                    f"bottom '{self.text.bottoms[1]}' asks for record {low if low < 0 else high} of {len(x)}."
                )
        return (x.index_select(0, places),)


class Filter(Layer):
    """The records of all bottoms but the last where that one, the selector, is not 0.

    Its tops have as many records as the batch lets through; later layers follow from batch to batch.
    """

    varies = True

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        selector = bottoms[-1]
        if not selector or any(length != 1 for length in selector[1:]):
            raise self.error(f"a selector of shape {selector}; expected one value per record.")
        for bottom in bottoms:
            if bottom[:1] != selector[:1]:
                raise self.error(f"a selector of shape {selector} for a bottom of shape {bottom}.")

    @override
    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        # As in Caffe, all records until the first batch is there.
        return list(bottoms[:-1])

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        places = bottoms[-1].detach().reshape(-1).nonzero()[:, 0]
        if self.training and not len(places):
            raise self.error(f"'{self.text.bottoms[-1]}' lets no record of this batch through, where Caffe stops.")
        return tuple(bottom.index_select(0, places) for bottom in bottoms[:-1])


class Im2col(Layer):
    """The values under each position of a kernel, as channels: what a convolution multiplies by its weight."""

    options_name = "convolution_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        self.first = self.axis(self.options.get("axis"), len(bottoms[0]))
        self.window = convolution_window(self.text, len(bottoms[0]) - self.first - 1)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, window = bottoms[0], self.window
        rank = len(window.kernel)
        x = functional.pad(x, [side for pad in reversed(window.pad) for side in (pad, pad)])
        for place in range(rank):
            kernel, dilation = window.kernel[place], window.dilation[place]
            # The windows along one axis lie in its place, their values along a new last axis.
            x = x.unfold(self.first + 1 + place, dilation * (kernel - 1) + 1, window.stride[place])[..., ::dilation]
        # (before, channels, positions ..., kernel ...) -> (before, channels, kernel ..., positions ...)
        before = list(range(self.first + 1))
        positions = [self.first + 1 + place for place in range(rank)]
        kernels = [self.first + 1 + rank + place for place in range(rank)]
        columns = math.prod(window.kernel) * x.shape[self.first]
        laid = x.permute(*before, *kernels, *positions)
        return (laid.reshape(*laid.shape[: self.first], columns, *(x.shape[axis] for axis in positions)),)
