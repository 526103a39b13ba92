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


class Convolution3D(Layer):
    """Kernels slid over time, height and width."""

    options_name = "convolution_param"

    def window_over(self, sides: Shape) -> Window:
        """The window over the axes behind the channels, of these lengths."""
        return volume_window(self.text)

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        names = ("weight_filler", "bias_filler")
        found = self.inferred(bottoms)
        self.blobs = [
            fill(shape, self.options.sub(name), self.place.generator) for shape, name in zip(found.params, names)
        ]
        self.window, self.kept = self.window_over(bottoms[0][2:]), found.tops[0][1:]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        w, bias = self.window, self.blobs[1] if len(self.blobs) > 1 else None
        slide = (functional.conv1d, functional.conv2d, functional.conv3d)[len(w.kernel) - 1]
        top = slide(bottoms[0], self.blobs[0], bias, w.stride, w.pad, groups=int(self.options.get("group")))
        return (top.reshape(len(top), *self.kept),)

    @override
    def multiply_adds(self, bottoms: Sequence[Shape]) -> int:
        return self.inferred(bottoms).macs


class NdConvolution(Convolution3D):
    """Kernels slid over the one to three axes behind the channels, each with a size of its own."""

    @override
    def window_over(self, sides: Shape) -> Window:
        return nd_window(self.text, sides)


class Pooling3D(Layer):
    """The maximum of windows over time, height and width; their number is rounded up, as in Pooling."""

    options_name = "pooling_param"
    rounds_up = True

    def window_over(self, sides: Shape) -> Window:
        """The window over the axes behind the channels, of these lengths."""
        return volume_window(self.text)

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        sides = bottoms[0][2:]
        self.window, self.kept = self.window_over(sides), self.inferred(bottoms).tops[0][1:]
        self.size = self.window.pool(sides, ceil=self.rounds_up)
        if any(pad >= kernel for pad, kernel in zip(self.window.pad, self.window.kernel)):
            raise self.error(f"pad {self.window.pad} is not smaller than the kernel {self.window.kernel}.")

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, w = bottoms[0], self.window
        sides: list[int] = []
        for length, count, kernel, stride, pad in zip(x.shape[2:], self.size, w.kernel, w.stride, w.pad):
            # Negative where the last window ends before the bottom does.
            sides = [pad, (count - 1) * stride + kernel - length - pad, *sides]
        rank = len(w.kernel) - 1
        if self.options.get("pool") == "MAX":
            pool = (functional.max_pool1d, functional.max_pool2d, functional.max_pool3d)[rank]
            top = pool(functional.pad(x, sides, value=-torch.inf), w.kernel, w.stride)
        else:
            mean = (functional.avg_pool1d, functional.avg_pool2d, functional.avg_pool3d)[rank]
            top = mean(functional.pad(x, sides), w.kernel, w.stride)
        return (top.reshape(len(top), *self.kept),)


class NdPooling(Pooling3D):
    """The maximum or the mean of windows over the axes behind the channels; their number is rounded down."""

    rounds_up = False

    @override
    def window_over(self, sides: Shape) -> Window:
        return nd_window(self.text, sides)
