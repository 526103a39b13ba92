"""Layers over videos (N, C, time, height, width) (Tran et al., C3D)."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill
from caffe_split.layertypes.records.volumes import nd_window, volume_window
from caffe_split.net.geometry import Window


class NdConvolution(Layer):
    """Kernels slid over the one to three axes behind the channels, each with a size of its own."""

    options_name = "convolution_param"

    def window_over(self, rank: int) -> Window:
        """The window over the `rank` axes behind the channels."""
        return nd_window(self.text, rank)

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        names = ("weight_filler", "bias_filler")
        shapes = self.inferred(bottoms).params
        self.blobs = [fill(shape, self.options.sub(name), self.place.generator) for shape, name in zip(shapes, names)]
        self.window = self.window_over(len(bottoms[0]) - 2)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        w, bias = self.window, self.blobs[1] if len(self.blobs) > 1 else None
        slide = (functional.conv1d, functional.conv2d, functional.conv3d)[len(w.kernel) - 1]
        return (slide(bottoms[0], self.blobs[0], bias, w.stride, w.pad, groups=int(self.options.get("group"))),)

    @override
    def multiply_adds(self, bottoms: Sequence[Shape]) -> int:
        return self.inferred(bottoms).macs * bottoms[0][0]


class Convolution3D(NdConvolution):
    """Kernels slid over time, height and width."""

    @override
    def window_over(self, rank: int) -> Window:
        return volume_window(self.text)


class NdPooling(Layer):
    """The maximum or the mean of windows over the axes behind the channels; their number is rounded up.

    The mean is that of the values of a window that lie in the bottom.
    """

    options_name = "pooling_param"

    def window_over(self, rank: int) -> Window:
        """The window over the `rank` axes behind the channels."""
        return nd_window(self.text, rank)

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.window = self.window_over(len(bottoms[0]) - 2)
        self.size = tuple(self.inferred(bottoms).tops[0][2:])
        if any(pad >= kernel for pad, kernel in zip(self.window.pad, self.window.kernel)):
            raise self.error(f"pad {self.window.pad} is not smaller than the kernel {self.window.kernel}.")

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, w = bottoms[0], self.window
        sides: list[int] = []
        for length, count, kernel, stride, pad in zip(x.shape[2:], self.size, w.kernel, w.stride, w.pad):
            sides = [pad, (count - 1) * stride + kernel - length - pad, *sides]
        rank = len(w.kernel) - 1
        if self.options.get("pool") == "MAX":
            pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank]
            return (pool(functional.pad(x, sides, value=-torch.inf), w.kernel, w.stride),)
        mean = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank]
        inside = functional.pad(torch.ones_like(x[:1, :1]), sides)
        return (mean(functional.pad(x, sides), w.kernel, w.stride) / mean(inside, w.kernel, w.stride),)


class Pooling3D(NdPooling):
    """The maximum of windows over time, height and width; their number is rounded up, as in Pooling."""

    @override
    def window_over(self, rank: int) -> Window:
        return volume_window(self.text)
