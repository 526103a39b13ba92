"""Layers with weights."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional as F

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.model.fillers import fill
from caffe_split.net.geometry import convolution_window
from caffe_split.net.options import shape_of


class _Weighted(Layer):
    def fill(self, shape: Sequence[int], name: str) -> torch.Tensor:
        return fill(shape, self.options.sub(name), self.place.generator)

    def fill_blobs(self, bottoms: Sequence[Shape]) -> None:
        """The weight, and the bias where bias_term asks for it."""
        names = ("weight_filler", "bias_filler")
        self.blobs = [self.fill(shape, name) for shape, name in zip(self.told(bottoms).params, names)]

    def bias(self) -> torch.Tensor | None:
        return self.blobs[1] if len(self.blobs) > 1 else None

    def count(self) -> int:
        count = int(self.options.get("num_output") or 0)
        if count < 1:
            raise self.error("num_output is missing or 0.")
        return count


class Convolution(_Weighted):
    """Over one, two or three axes behind that of the channels."""

    options_name = "convolution_param"
    by_rank: Sequence[Callable[..., torch.Tensor]] = (F.conv1d, F.conv2d, F.conv3d)

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.count()
        shape = bottoms[0]
        for other in bottoms:
            if other != shape:
                raise self.error(f"bottoms of shapes {shape} and {other}; expected one shape.")
        self.fill_blobs(bottoms)
        self.first = self.axis(self.options.get("axis"), len(shape))
        rank = len(shape) - self.first - 1
        if rank > len(self.by_rank):
            raise self.error(f"a bottom of shape {shape} has {rank} axes to slide over; 1 to {len(self.by_rank)} are.")
        self.window = convolution_window(self.text, rank)
        self.group = int(self.options.get("group"))
        self.slide = self.by_rank[rank - 1]

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(self._behind(bottom) for bottom in bottoms)

    def _behind(self, x: torch.Tensor) -> torch.Tensor:
        """One bottom's top; PyTorch wants one axis before the channels."""
        if self.first == 1:
            return self.top(x)
        y = self.top(x.reshape(math.prod(x.shape[: self.first]), *x.shape[self.first :]))
        return y.view(*x.shape[: self.first], *y.shape[1:])

    def top(self, x: torch.Tensor) -> torch.Tensor:
        w = self.window
        return self.slide(x, self.blobs[0], self.bias(), w.stride, w.pad, w.dilation, self.group)


class Deconvolution(Convolution):
    by_rank = (F.conv_transpose1d, F.conv_transpose2d, F.conv_transpose3d)

    def top(self, x: torch.Tensor) -> torch.Tensor:
        w = self.window
        return self.slide(x, self.blobs[0], self.bias(), w.stride, w.pad, 0, self.group, w.dilation)


class InnerProduct(_Weighted):
    options_name = "inner_product_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.count()
        self.first = self.axis(self.options.get("axis"), len(bottoms[0]))
        self.transposed = bool(self.options.get("transpose"))
        self.fill_blobs(bottoms)

    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        weight = self.blobs[0].t() if self.transposed else self.blobs[0]
        rows = F.linear(x.reshape(math.prod(x.shape[: self.first]), -1), weight, self.bias())
        return (rows.view(*x.shape[: self.first], -1),)


class Embed(_Weighted):
    options_name = "embed_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.length = int(self.options.get("input_dim") or 0)
        if self.length < 1:
            raise self.error("input_dim is missing or 0.")
        self.count()
        self.fill_blobs(bottoms)

    def run(self, *bottoms: torch.Tensor) -> Tops:
        places = bottoms[0].long()
        if places.device.type == "cpu" and places.numel():
            low, high = (int(value) for value in places.aminmax())
            if low < 0 or high >= self.length:
                raise self.error(
                    f"bottom '{self.text.bottoms[0]}' asks for row {low if low < 0 else high} of {self.length}."
                )
        rows = F.embedding(places, self.blobs[0])
        bias = self.bias()
        return (rows if bias is None else rows + bias,)


class Parameter(Layer):
    options_name = "parameter_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.blobs = [torch.zeros(shape_of(self.options.sub("shape")))]

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (self.blobs[0],)


class Bias(Layer):
    """x + b, b the second bottom or learnt, laid along the axes from `axis` on."""

    options_name = "bias_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms) == 1:
            shape = self.learnt_shape(bottoms[0])
            self.blobs = [fill(shape, self.options.sub("filler"), self.place.generator)]
        self.fit(bottoms[0], bottoms[1] if len(bottoms) > 1 else tuple(self.blobs[0].shape))

    def learnt_shape(self, bottom: Shape) -> Shape:
        axis, count = self.axis(self.options.get("axis"), len(bottom)), self.options.get("num_axes")
        if count < -1 or axis + count > len(bottom):
            raise self.error(f"axis {axis} and num_axes {count} go past a bottom of shape {bottom}.")
        return bottom[axis:] if count == -1 else bottom[axis : axis + count]

    def fit(self, bottom: Shape, factor: Shape) -> None:
        """How the factor has to be viewed to be laid along `bottom`."""
        axis = self.axis(self.options.get("axis"), len(bottom)) if factor else 0
        if bottom[axis : axis + len(factor)] != factor:
            raise self.error(f"an array of shape {factor} does not fit a bottom of shape {bottom} at axis {axis}.")
        self.view = factor + (1,) * (len(bottom) - axis - len(factor))
        self.dimensions = len(bottom)

    def run(self, *bottoms: torch.Tensor) -> Tops:
        other = bottoms[1] if len(bottoms) > 1 else self.blobs[0]
        return (bottoms[0] + other.reshape(self.view).to(bottoms[0].dtype),)


class Scale(Bias):
    """x times s, plus b where asked; s the second bottom or learnt."""

    options_name = "scale_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms) == 1:
            shape = self.learnt_shape(bottoms[0])
            if self.options.has("filler"):
                self.blobs = [fill(shape, self.options.sub("filler"), self.place.generator)]
            else:
                self.blobs = [torch.ones(shape)]
        else:
            shape = bottoms[1]
        self.fit(bottoms[0], shape)
        if self.options.get("bias_term"):
            self.blobs.append(fill(shape, self.options.sub("bias_filler"), self.place.generator))

    def is_per_channel(self) -> bool:
        """Whether it has one learnt factor a channel: then BatchNorm can do its work in the same pass."""
        learnt = len(self.text.bottoms) == 1 and self.blobs[0].dim() == 1
        return learnt and len(self.view) == self.dimensions - 1

    def run(self, *bottoms: torch.Tensor) -> Tops:
        factor = bottoms[1] if len(bottoms) > 1 else self.blobs[0]
        out = bottoms[0] * factor.reshape(self.view).to(bottoms[0].dtype)
        if self.options.get("bias_term"):
            out = out + self.blobs[-1].reshape(self.view).to(out.dtype)
        return (out,)
