"""Spatial pyramid pooling: an image of any size pooled to 1, 4, 16, ... values per channel."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.pool import pooled
from caffe_split.net.geometry import pyramid_windows


class SPP(Layer):
    """The maximum or mean of 1, 4, 16, ... windows per channel, one level of the pyramid after the other."""

    options_name = "spp_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        sizes = bottoms[0][2], bottoms[0][3]
        self.windows = [(window, window.pool(sizes)) for window in pyramid_windows(self.text, sizes)]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        kind = self.options.get("pool")
        levels = [pooled(bottoms[0], kind, window, size) for window, size in self.windows]
        return (levels[0] if len(levels) == 1 else torch.cat([level.flatten(1) for level in levels], 1),)
