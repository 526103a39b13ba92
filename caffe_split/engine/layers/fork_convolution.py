"""Convolutions of forks whose kernels or places differ from pixel to pixel."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill
from caffe_split.engine.layers.sampling import between
from caffe_split.net.geometry import convolution_window


class Local(Layer):
    """A convolution with kernels of its own at each place (Taigman et al., DeepFace)."""

    options_name = "local_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        found = self.inferred(bottoms)
        fillers = [self.options.sub(name) for name in ("weight_filler", "bias_filler")]
        self.blobs = [fill(shape, filler, self.place.generator) for shape, filler in zip(found.params, fillers)]
        self.window = convolution_window(self.text, 2, self.options_name)
        self.size = tuple(found.tops[0][2:])

    @override
    def multiply_adds(self, bottoms: Sequence[Shape]) -> int:
        return self.inferred(bottoms).macs

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, w = bottoms[0], self.window
        columns = functional.unfold(x, w.kernel, padding=w.pad, stride=w.stride)
        top = torch.einsum("nkp,ckp->ncp", columns, self.blobs[0][:, 0])
        if len(self.blobs) > 1:
            top = top + self.blobs[1][0]
        return (top.view(len(x), -1, *self.size),)


class DeformableConvolution(Layer):
    """A convolution that reads each pixel under its kernel at another place, bilinear (Dai et al.).

    The second bottom says how far down and to the right, for each deformable group of channels and place of the kernel.
    Places outside of the image are 0; the last row and column reach up to the image's end.
    """

    options_name = "deformable_convolution_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        found = self.inferred(bottoms)
        fillers = [self.options.sub(name) for name in ("weight_filler", "bias_filler")]
        self.blobs = [fill(shape, filler, self.place.generator) for shape, filler in zip(found.params, fillers)]
        self.window = convolution_window(self.text, 2, self.options_name)
        self.size = tuple(found.tops[0][2:])

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, moves = bottoms
        columns = self._columns(x, moves)
        weight = self.blobs[0]
        group = int(self.options.get("group"))
        # (groups, kernels of a group, channels of a group times kernel)
        kernels = weight.reshape(group, len(weight) // group, -1)
        parts = columns.reshape(len(x), group, kernels.shape[2], -1)
        top = torch.einsum("gck,ngkp->ngcp", kernels, parts).reshape(len(x), len(weight), *self.size)
        return (top + self.blobs[1].view(-1, 1, 1) if len(self.blobs) > 1 else top,)

    def _columns(self, x: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        """The values under the kernel at each place, (N, channels, kernel, places)."""
        w, (height, width) = self.window, self.size
        batch, channels = x.shape[:2]
        parts = int(self.options.get("deformable_group"))
        kernel = math.prod(w.kernel)
        moves = moves.view(batch * parts, kernel, 2, height, width)
        starts = []
        for axis, count in enumerate(self.size):
            inner = torch.arange(w.kernel[axis], device=x.device, dtype=x.dtype) * w.dilation[axis]
            outer = torch.arange(count, device=x.device, dtype=x.dtype) * w.stride[axis] - w.pad[axis]
            starts.append((inner, outer))
        rows = (starts[0][0].view(-1, 1, 1, 1) + starts[0][1].view(1, 1, -1, 1)).expand(-1, w.kernel[1], -1, 1)
        columns = (starts[1][0].view(1, -1, 1, 1) + starts[1][1].view(1, 1, 1, -1)).expand(w.kernel[0], -1, 1, -1)
        rows = moves[:, :, 0] + rows.reshape(kernel, height, 1)
        columns = moves[:, :, 1] + columns.reshape(kernel, 1, width)
        images = x.reshape(batch * parts, channels // parts, *x.shape[2:])
        return between(images, rows, columns, beyond=False).view(batch, channels, kernel, height * width)
