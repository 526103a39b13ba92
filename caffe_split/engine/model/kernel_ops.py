"""The layers of a `Step` that call compiled kernels, and which layers do."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Shape, Tops
from caffe_split.engine.layers.dense import Convolution, InnerProduct
from caffe_split.engine.layers.loss import LEAST_SOFTMAX, SoftmaxWithLoss
from caffe_split.engine.layers.pool import Pooling
from caffe_split.engine.model.calls import LayerCall
from caffe_split.engine.model.conv_ops import Direct, Joined, Product
from caffe_split.engine.model.joined import JoinedCall
from caffe_split.engine.model.ops import Gradients, Native, Op, add_gradients, dense

# Multiply-adds of a convolution up to which the direct one is faster than PyTorch's, and of an inner product.
_DIRECT = 10_000_000
_FEW = 1_000_000


class _Chain(Native):
    """A BatchNorm with what is after it, by the batch's statistics."""

    def __init__(self, call: LayerCall, needs: Sequence[bool], form: Shape) -> None:
        super().__init__(call, needs, form)
        assert call.chain is not None
        self._norm, self._scale = call.chain.norm, call.chain.scale
        self._cuts, self._adds = call.chain.relu is not None, call.chain.total is not None
        get = self._norm.options.get
        self._eps, self._fraction = float(get("eps")), float(get("moving_average_fraction"))
        self._channels = form[1]
        self._rows = math.prod(form) // self._channels

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        x, rows, channels = dense(bottoms[0]), self._rows, self._channels
        other = dense(bottoms[1]) if self._adds else None  # Kept by a name while the kernel reads it.
        mean, variance, gathered = self._norm.blobs
        weight, bias = (*self._factors(), None, None)[:2]
        # Mean, 1 / deviation, that times the weight, and the bias.
        numbers, out = self.memory("numbers", (4, channels)), self.top()
        self.library.norm_batch(
            0,
            x.data_ptr(),
            rows,
            channels,
            self._eps,
            self._fraction,
            None if weight is None else weight.data_ptr(),
            None if bias is None else bias.data_ptr(),
            numbers.data_ptr(),
            mean.data_ptr(),
            variance.data_ptr(),
            gathered.data_ptr(),
        )
        added = None if other is None else other.data_ptr()
        self.library.norm_forward(
            0, x.data_ptr(), added, rows, channels, numbers.data_ptr(), self._cuts, out.data_ptr()
        )
        self.kept = (x, out, numbers)
        return (out,)

    def _factors(self) -> Sequence[torch.Tensor]:
        """The weight and the bias of the Scale, as far as there are any."""
        return [] if self._scale is None else self._scale.blobs

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        assert gradients[0] is not None
        x, out, numbers = self.kept
        given, channels, blobs = dense(gradients[0]), self._channels, self._factors()
        of_weight, of_bias = (*self.gradients_of(blobs), None, None)[:2]
        unused = self.memory("unused", (channels,)).data_ptr()
        back = self.memory("back", self.form)
        # Without a ReLU the other blob of a sum gets the gradient as it is.
        passed = self.memory("passed", self.form) if self._adds and self._cuts else None
        self.library.norm_backward(
            0,
            given.data_ptr(),
            None,
            out.data_ptr() if self._adds and self._cuts else None,
            x.data_ptr(),
            self._rows,
            channels,
            numbers.data_ptr(),
            self._cuts,
            unused if of_weight is None else of_weight.data_ptr(),
            unused if of_bias is None else of_bias.data_ptr(),
            None if passed is None else passed.data_ptr(),
            back.data_ptr(),
        )
        add_gradients(blobs, (of_weight, of_bias))
        mine = back if self.needs[0] else None
        return (mine, given if passed is None else passed) if self._adds and self.needs[1] else (mine, None)


class _Mean(Native):
    """A Pooling of the mean of each channel."""

    def __init__(self, call: LayerCall, needs: Sequence[bool], bottom: Shape) -> None:
        n, c, height, width = bottom
        super().__init__(call, needs, (n, c, 1, 1))
        numbers = (n, height, width, c, height, width, 1, 1, 0, 0, 1, 1)
        self._shape, self._bottom = (ctypes.c_int64 * len(numbers))(*numbers), bottom

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        x, y = dense(bottoms[0]), self.top()
        self.library.pool_mean(0, self._shape, x.data_ptr(), y.data_ptr())
        return (y,)

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        assert gradients[0] is not None
        if not self.needs[0]:
            return (None,)
        given, back = dense(gradients[0]), self.memory("back", self._bottom)
        self.library.pool_backward(0, self._shape, given.data_ptr(), None, back.data_ptr())
        return (back,)


class _Loss(Native):
    """A SoftmaxWithLoss over labels that all count."""

    def __init__(self, call: LayerCall, needs: Sequence[bool], bottom: Shape) -> None:
        super().__init__(call, needs, ())
        layer = call.layer
        assert isinstance(layer, SoftmaxWithLoss)
        self._bottom = bottom
        self._sizes = (layer.outer, layer.classes, LEAST_SOFTMAX, float(layer.normalizer("VALID", None)))

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        scores, labels = bottoms[0].contiguous(), bottoms[1].float().contiguous()
        loss = self.top()
        gradient = self.memory("gradient", (self._sizes[0], self._sizes[1]))
        arguments = (*self._sizes, loss.data_ptr(), gradient.data_ptr())
        if self.library.softmax_loss(scores.data_ptr(), labels.data_ptr(), *arguments):
            assert isinstance(self.call.layer, SoftmaxWithLoss)
            self.call.layer.labels(bottoms[1])  # It says which.
        return (loss,)

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        assert gradients[0] is not None
        gradient = self.memory("gradient", ()).view(self._bottom)
        weight = float(gradients[0])
        gradient = gradient if weight == 1 else gradient * weight
        return (gradient if self.needs[0] else None, *[None] * (len(self.needs) - 1))


def op_for(call: LayerCall, shapes: Mapping[str, Shape], needs: Sequence[bool]) -> Op:
    """The operation of a call.

    Args:
        call: it has bottoms.
        shapes: of the blobs by name.
        needs: for each bottom whether its gradient is wanted.
    """
    layer, bottom = call.layer, shapes[call.bottoms[0]]
    if call.chain is not None:
        return _Chain(call, needs, bottom) if call.chain.norm.has_kernel(len(bottom)) else Op(call, needs)
    ends = bottom, shapes[call.tops[0]] if call.tops else ()
    if isinstance(call, JoinedCall):
        assert call.linear is not None
        window = call.linear.window
        small = math.prod(ends[1]) * math.prod((call.linear.shape[1], *window.size)) <= _DIRECT
        numbers = (*window.size, *window.stride, *window.pad, 1, 1)
        return Joined(call, needs, ends, numbers) if small else Op(call, needs)
    # Types of their own, not those that forks derive from them.
    if type(layer) is Convolution and len(call.bottoms) == 1:
        small = math.prod(ends[1]) * layer.blobs[0][0].numel() <= _DIRECT
        if small and layer.first == 1 and len(bottom) == 4 and layer.group == 1:
            w = layer.window
            return Direct(call, needs, ends, (*w.kernel, *w.stride, *w.pad, *w.dilation))
    elif type(layer) is InnerProduct and not (layer.transposed or layer.normalizes) and layer.first == 1:
        if bottom[0] * layer.blobs[0].numel() <= _FEW:
            return Product(call, needs, bottom, ends[1][1])
    elif type(layer) is Pooling and layer.is_global and layer.options.get("pool") == "AVE":
        return _Mean(call, needs, bottom)
    elif type(layer) is SoftmaxWithLoss and layer.inner == 1 and layer.ignored is None and not layer.is_weighted:
        return _Loss(call, needs, bottom)
    return Op(call, needs)
