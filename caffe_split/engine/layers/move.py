"""Layers of forks that move values to other places, and Axpy."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.layertypes.records.moving import order_of
from caffe_split.layertypes.records.upsampling import upscale_factor


class Permute(Layer):
    """The axes in another order."""

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.order = order_of(self.text, len(bottoms[0]))

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].permute(self.order).contiguous(),)


class ShuffleChannel(Layer):
    """The channels of `group` groups in turn: the first of each, then the second of each (Zhang et al., ShuffleNet)."""

    options_name = "shuffle_channel_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, group = bottoms[0], int(self.options.get("group"))
        shuffled = x.reshape(x.shape[0], group, x.shape[1] // group, *x.shape[2:]).transpose(1, 2)
        return (shuffled.reshape(x.shape),)


class Reverse(Layer):
    """The bottom with the values along an axis in reverse."""

    options_name = "reverse_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (bottoms[0].flip(self.axis(self.options.get("axis"), bottoms[0].dim())),)


class Reorg(Layer):
    """Squares of `stride` become channels, in the order in which darknet's reorg leaves them in memory.

    Darknet reads its bottom as one with fewer channels and a larger image; with `reverse` it goes the other way.
    """

    options_name = "reorg_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        (self.top,) = self.inferred(bottoms).tops

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, stride = bottoms[0], int(self.options.get("stride"))
        batch, channels, height, width = x.shape
        few = channels // stride**2
        if self.options.get("reverse"):
            moved = x.reshape(batch, stride, stride, few, height, width).permute(0, 3, 4, 1, 5, 2)
        else:
            moved = x.reshape(batch, few, height, stride, width, stride).permute(0, 3, 5, 1, 2, 4)
        return (moved.reshape(batch, *self.top[1:]),)


class Axpy(Layer):
    """a * x + y, with a factor a for each channel of each record (Hu et al., squeeze and excitation)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        a, x, y = bottoms
        return (a.reshape(*x.shape[:2], *[1] * (x.dim() - 2)) * x + y,)


class PixelShuffle(Layer):
    """Channels become squares: channel c * f^2 + y * f + x is the place (y, x) of each square (Shi et al.)."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (functional.pixel_shuffle(bottoms[0], upscale_factor(self.text)),)


class CReLU(Layer):
    """ReLU of x, and after it along an axis ReLU of -x (Shang et al.)."""

    options_name = "crelu_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, slope = bottoms[0], self.options.get("negative_slope")
        axis = self.axis(self.options.get("concat_axis"), x.dim())
        return (torch.cat([functional.leaky_relu(x, slope), functional.leaky_relu(-x, slope)], axis),)


class Padding(Layer):
    """Zeros around images, pad_beg before and pad_end after their pixels; numbers below 0 cut."""

    options_name = "padding_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        first, last = (int(self.options.get(name)) for name in ("pad_beg", "pad_end"))
        return (functional.pad(bottoms[0], [first, last, first, last]),)


class Flip(Layer):
    """Images mirrored from left to right (flip_width), from top to bottom (flip_height), or both."""

    options_name = "flip_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        axes = [axis for axis, name in ((2, "flip_height"), (3, "flip_width")) if self.options.get(name)]
        return (bottoms[0].flip(axes),)
