"""Layers with weights: convolutions, inner products, and factors and biases along some axes."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.kernels.convolution import convolved
from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill
from caffe_split.net.geometry import convolution_window
from caffe_split.net.options import shape_of


class _Weighted(Layer):
    """A layer with a weight, and a bias if bias_term."""

    def fill(self, shape: Sequence[int], name: str) -> torch.Tensor:
        """A new blob by the filler in the option `name`."""
        return fill(shape, self.options.sub(name), self.place.generator)

    def fill_blobs(self, bottoms: Sequence[Shape]) -> None:
        """Make the weight, and the bias if there is one, of the shapes that the shape rule gives."""
        names = ("weight_filler", "bias_filler")
        self.blobs = [self.fill(shape, name) for shape, name in zip(self.inferred(bottoms).params, names)]

    def bias(self) -> torch.Tensor | None:
        """The bias, if there is one."""
        return self.blobs[1] if len(self.blobs) > 1 else None

    def check_count(self) -> None:
        """Raises `CaffeSplitError` unless num_output is given and above 0."""
        if int(self.options.get("num_output") or 0) < 1:
            raise self.error("num_output is missing or 0.")


class Convolution(_Weighted):
    """Kernels slid over the one, two or three axes after that of the channels; the same ones for each bottom."""

    options_name = "convolution_param"
    by_rank: Sequence[Callable[..., torch.Tensor]] = (functional.conv1d, functional.conv2d, functional.conv3d)
    # Set by a net that may use compiled kernels.
    by_kernels = False

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.check_count()
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

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(self._behind(bottom) for bottom in bottoms)

    def _behind(self, x: torch.Tensor) -> torch.Tensor:
        """The top of one bottom. PyTorch wants exactly one axis before that of the channels."""
        if self.first == 1:
            return self.top(x)
        y = self.top(x.reshape(math.prod(x.shape[: self.first]), *x.shape[self.first :]))
        return y.view(*x.shape[: self.first], *y.shape[1:])

    def top(self, x: torch.Tensor) -> torch.Tensor:
        """The top of a bottom with one axis before that of the channels."""
        w = self.window
        if w.end != w.pad:
            x = functional.pad(x, [side for ends in reversed([*zip(w.pad, w.end)]) for side in ends])
        pad = (0,) * len(w.pad) if w.end != w.pad else w.pad
        if self.by_kernels and self.group == 1 and set(w.dilation) == {1} and x.dim() == 4:
            return convolved(x, self.blobs[0], self.bias(), w.stride, pad)
        return self.slide(x, self.blobs[0], self.bias(), w.stride, pad, w.dilation, self.group)


class Deconvolution(Convolution):
    """The transposed convolution: what the gradient of a convolution with these weights would be."""

    by_rank = (functional.conv_transpose1d, functional.conv_transpose2d, functional.conv_transpose3d)

    @override
    def top(self, x: torch.Tensor) -> torch.Tensor:
        w = self.window
        return self.slide(x, self.blobs[0], self.bias(), w.stride, w.pad, 0, self.group, w.dilation)


class InnerProduct(_Weighted):
    """The axes from `axis` on as one vector, times the weight, plus the bias.

    With a fork's `normalize` (Wang et al., Additive Margin Softmax) the weights of each output are divided by their
    length before each batch, in TRAIN for good; the gradient is that of the divided weights.
    """

    options_name = "inner_product_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.check_count()
        self.first = self.axis(self.options.get("axis"), len(bottoms[0]))
        self.transposed = bool(self.options.get("transpose"))
        self.normalizes = bool(self.options.get("normalize"))
        self.fill_blobs(bottoms)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, weight = bottoms[0], self.blobs[0]
        if self.normalizes:
            with torch.no_grad():
                divided = weight / (weight.square().sum(1, keepdim=True) + 1e-6).sqrt()
                if self.training:
                    # Not counted as a change by autograd: the gradient is that of the divided weights.
                    weight.data.copy_(divided)
                else:
                    weight = divided
        weight = weight.t() if self.transposed else weight
        rows = functional.linear(x.reshape(math.prod(x.shape[: self.first]), -1), weight, self.bias())
        return (rows.view(*x.shape[: self.first], -1),)


class Embed(_Weighted):
    """For each whole number of the bottom the row of the weight with that index, plus the bias."""

    options_name = "embed_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.length = int(self.options.get("input_dim") or 0)
        if self.length < 1:
            raise self.error("input_dim is missing or 0.")
        self.check_count()
        self.fill_blobs(bottoms)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        places = bottoms[0].long()
        if places.device.type == "cpu" and places.numel():
            low, high = (int(value) for value in places.aminmax())
            if low < 0 or high >= self.length:
                raise self.error(
                    f"bottom '{self.text.bottoms[0]}' asks for row {low if low < 0 else high} of {self.length}."
                )
        rows = functional.embedding(places, self.blobs[0])
        bias = self.bias()
        return (rows if bias is None else rows + bias,)


class Parameter(Layer):
    """A learnt blob of its own, zeros at first."""

    options_name = "parameter_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.blobs = [torch.zeros(shape_of(self.options.sub("shape")))]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (self.blobs[0],)


class Bias(Layer):
    """x + b, where b is the second bottom or learnt; b has the shape of num_axes axes of x, from `axis` on."""

    options_name = "bias_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        if len(bottoms) == 1:
            shape = self.learnt_shape(bottoms[0])
            self.blobs = [fill(shape, self.options.sub("filler"), self.place.generator)]
        self.fit(bottoms[0], bottoms[1] if len(bottoms) > 1 else tuple(self.blobs[0].shape))

    def learnt_shape(self, bottom: Shape) -> Shape:
        """The shape of the learnt blob for a bottom of that shape."""
        axis, count = self.axis(self.options.get("axis"), len(bottom)), self.options.get("num_axes")
        return bottom[axis:] if count == -1 else bottom[axis : axis + count]

    def fit(self, bottom: Shape, factor: Shape) -> None:
        """Find the shape in which a blob of shape `factor` broadcasts along `bottom`."""
        axis = self.axis(self.options.get("axis"), len(bottom)) if factor else 0
        self.view = factor + (1,) * (len(bottom) - axis - len(factor))
        self.dimensions = len(bottom)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        other = bottoms[1] if len(bottoms) > 1 else self.blobs[0]
        return (bottoms[0] + other.reshape(self.view).to(bottoms[0].dtype),)


class Scale(Bias):
    """x * s, plus a learnt bias if bias_term, where s is the second bottom or learnt.

    s has the shape of num_axes axes of x, from `axis` on.
    """

    options_name = "scale_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
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
        """Whether there is one learnt factor per channel; then a BatchNorm in front can multiply by it."""
        learnt = len(self.text.bottoms) == 1 and self.blobs[0].dim() == 1
        return learnt and len(self.view) == self.dimensions - 1

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        factor = bottoms[1] if len(bottoms) > 1 else self.blobs[0]
        out = bottoms[0] * factor.reshape(self.view).to(bottoms[0].dtype)
        if self.options.get("bias_term"):
            out = out + self.blobs[-1].reshape(self.view).to(out.dtype)
        return (out,)
