"""Layers with weights."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch.nn import functional as F

from caffe_split.engine.fillers import fill
from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.options import shape_of
from caffe_split.net import convolution_geometry


class _Weighted(Layer):
    def fill(self, shape: Sequence[int], name: str) -> torch.Tensor:
        return fill(shape, self.options.sub(name), self.place.generator)

    def fill_both(self, weight: Sequence[int], bias: int) -> None:
        """The weight, and the bias where bias_term asks for it."""
        self.blobs = [self.fill(weight, "weight_filler")]
        if self.options.get("bias_term"):
            self.blobs.append(self.fill((bias,), "bias_filler"))

    def bias(self) -> torch.Tensor | None:
        return self.blobs[1] if len(self.blobs) > 1 else None

    def count(self) -> int:
        count = int(self.options.get("num_output") or 0)
        if count < 1:
            raise self.error("num_output is missing or 0.")
        return count


class Convolution(_Weighted):
    options_name = "convolution_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.geometry = convolution_geometry(self.text)
        count, shape, group = self.count(), bottoms[0], self.geometry.group
        for other in bottoms:
            if len(other) != 4 or other[1] != shape[1]:
                raise self.error(f"a bottom of shape {other}; expected (N, {shape[1]}, height, width).")
        if shape[1] % group or count % group:
            raise self.error(f"{shape[1]} input channels and {count} kernels do not divide into {group} groups.")
        self.fill_both((count, shape[1] // group, *self.geometry.kernel), count)
        if min(self.geometry.output_size((shape[2], shape[3]))) < 1:
            raise self.error(f"its kernel {self.geometry.kernel} does not fit into {shape[2]}x{shape[3]}.")

    def run(self, *bottoms: torch.Tensor) -> Tops:
        g = self.geometry
        return tuple(
            F.conv2d(bottom, self.blobs[0], self.bias(), g.stride, g.pad, g.dilation, g.group) for bottom in bottoms
        )


class Deconvolution(_Weighted):
    options_name = "convolution_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.geometry = convolution_geometry(self.text)
        count, shape, group = self.count(), bottoms[0], self.geometry.group
        if len(shape) != 4 or shape[1] % group or count % group:
            raise self.error(f"a bottom of shape {shape}, {count} outputs and {group} groups do not go together.")
        self.fill_both((shape[1], count // group, *self.geometry.kernel), count)

    def run(self, *bottoms: torch.Tensor) -> Tops:
        g = self.geometry
        return tuple(
            F.conv_transpose2d(bottom, self.blobs[0], self.bias(), g.stride, g.pad, 0, g.group, g.dilation)
            for bottom in bottoms
        )


class InnerProduct(_Weighted):
    options_name = "inner_product_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.first = self.axis(self.options.get("axis"), len(bottoms[0]))
        inputs, count = math.prod(bottoms[0][self.first :]), self.count()
        self.transposed = bool(self.options.get("transpose"))
        self.fill_both((inputs, count) if self.transposed else (count, inputs), count)

    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        weight = self.blobs[0].t() if self.transposed else self.blobs[0]
        rows = F.linear(x.reshape(math.prod(x.shape[: self.first]), -1), weight, self.bias())
        return (rows.view(*x.shape[: self.first], -1),)


class Embed(_Weighted):
    options_name = "embed_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        rows = int(self.options.get("input_dim") or 0)
        if rows < 1:
            raise self.error("input_dim is missing or 0.")
        self.fill_both((rows, self.count()), self.count())

    def run(self, *bottoms: torch.Tensor) -> Tops:
        rows = F.embedding(bottoms[0].long(), self.blobs[0])
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


