"""Convolutions and inner products of a `Step`, by the compiled kernel for small ones."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Shape, Tops
from caffe_split.engine.model.calls import LayerCall
from caffe_split.engine.model.joined import JoinedCall
from caffe_split.engine.model.ops import Gradients, Native, add_gradients, dense

Numbers = tuple[int, ...]


class Direct(Native):
    """A convolution by the kernel for small ones.

    window: kernel, stride, pad and dilation, each vertical and horizontal.
    """

    def __init__(self, call: LayerCall, needs: Sequence[bool], shapes: tuple[Shape, Shape], window: Numbers) -> None:
        (n, c, height, width), top = shapes
        super().__init__(call, needs, top)
        numbers = (n, height, width, c, top[1], *window, *top[2:])
        self._shape = (ctypes.c_int64 * len(numbers))(*numbers)
        self._weights: Sequence[torch.Tensor] = ()

    def weights(self) -> Sequence[torch.Tensor]:
        """The kernel, and the bias if there is one."""
        return self.call.layer.blobs

    def give(self, gradients: Gradients) -> None:
        """Pass on the gradients of the `weights`, None for those that need none."""
        add_gradients(self.call.layer.blobs, gradients)

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        x, self._weights, y = dense(bottoms[0]), self.weights(), self.top()
        bias = self._weights[1].data_ptr() if len(self._weights) > 1 else None
        self.library.conv_forward(self._shape, x.data_ptr(), self._weights[0].data_ptr(), bias, y.data_ptr())
        self.kept = (x,)
        return (y,)

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        assert gradients[0] is not None
        (x,), weights = self.kept, self._weights
        given = dense(gradients[0])
        back = self.memory("back", x.shape) if self.needs[0] else None
        found = self.gradients_of(weights)
        kernel, bias = (*found, None)[:2]
        self.library.conv_backward(
            self._shape,
            x.data_ptr(),
            weights[0].data_ptr(),
            given.data_ptr(),
            None if back is None else back.data_ptr(),
            None if kernel is None else kernel.data_ptr(),
            None if bias is None else bias.data_ptr(),
        )
        self.give(found)
        return (back,)


class Product(Direct):
    """An InnerProduct of rows, as a convolution of images of one pixel."""

    def __init__(self, call: LayerCall, needs: Sequence[bool], bottom: Shape, outputs: int) -> None:
        rows = (bottom[0], math.prod(bottom[1:]), 1, 1)
        super().__init__(call, needs, (rows, (bottom[0], outputs, 1, 1)), (1, 1, 1, 1, 0, 0, 1, 1))
        self._rows, self.form, self._bottom = rows[:2], (bottom[0], outputs), bottom

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        return super().forward([bottoms[0].reshape(self._rows)])

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        (back,) = super().backward(gradients)
        return (None if back is None else back.view(self._bottom),)


class Joined(Direct):
    """Several convolutions as one, whose kernel has a small graph of its own."""

    @override
    def weights(self) -> Sequence[torch.Tensor]:
        assert isinstance(self.call, JoinedCall) and self.call.linear is not None
        with torch.enable_grad():
            kernel, bias = self.call.linear.map()
            # Within: a copy made without a graph has no gradient, and the layers would keep their weights for ever.
            return [each.contiguous() for each in (kernel, bias) if each is not None]

    @override
    def give(self, gradients: Gradients) -> None:
        blobs = [blob for layer in self.call.layers for blob in layer.blobs if blob.requires_grad]
        pairs = [(each, gradient) for each, gradient in zip(self._weights, gradients) if gradient is not None]
        if blobs and pairs:
            made, given = zip(*pairs)
            found = torch.autograd.grad(made, blobs, given, allow_unused=True)
            # Copies: what comes out of a sum is what went in, the same for each part.
            add_gradients(blobs, [None if each is None else each.clone() for each in found])

    @override
    def forget(self) -> None:
        super().forget()
        self._weights = ()
