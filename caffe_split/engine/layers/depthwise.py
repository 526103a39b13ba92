"""Depthwise convolutions as types of their own: a kernel per channel, with or without `group`."""

from __future__ import annotations

from collections.abc import Sequence

from typing_extensions import override

from caffe_split.engine.layers.base import Shape
from caffe_split.engine.layers.dense import Convolution


class DepthwiseConvolution(Convolution):
    """One kernel for each channel."""

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        self.group = bottoms[0][1]


class ConvolutionDepthwise(DepthwiseConvolution):
    """The same under the name that other forks have for it."""
