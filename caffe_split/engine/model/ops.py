"""Layers of a `Step`: each computes its tops, and later its gradients."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping, Sequence

import torch
from typing_extensions import override

from caffe_split.engine.kernels import norm
from caffe_split.engine.kernels.build import library
from caffe_split.engine.layers.base import Shape, Tops
from caffe_split.engine.layers.dense import Convolution, InnerProduct
from caffe_split.engine.layers.loss import LEAST_SOFTMAX, SoftmaxWithLoss
from caffe_split.engine.layers.pool import Pooling
from caffe_split.engine.model.calls import LayerCall
from caffe_split.engine.model.joined import JoinedCall

Gradients = Sequence["torch.Tensor | None"]
Numbers = tuple[int, ...]
# Multiply-adds of a convolution up to which the direct one is faster than PyTorch's.
_DIRECT = 10_000_000


def add_gradient(blob: torch.Tensor, gradient: torch.Tensor) -> None:
    """Add to the gradient of a parameter."""
    if blob.grad is None:
        blob.grad = gradient
    else:
        blob.grad.add_(gradient)


class Op:
    """A call of a layer with a graph of its own; types of their own override `forward` and `backward`.

    Attributes:
        call: what is called.
        needs: for each bottom whether its gradient is wanted.
        places: the numbers of its bottoms and of its tops among all values; set by the step.
    """

    places: tuple[tuple[int, ...], tuple[int, ...]] = ((), ())

    def __init__(self, call: LayerCall, needs: Sequence[bool]) -> None:
        self.call, self.needs = call, needs
        self.kept: tuple[torch.Tensor, ...] = ()
        self._tops: Tops = ()

    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        """The tops; what the gradient needs is kept."""
        with torch.enable_grad():
            self.kept = tuple(x.detach().requires_grad_(need) for x, need in zip(bottoms, self.needs))
            self._tops = tuple(self.call.compute(self.kept, {}))
        return tuple(top.detach() for top in self._tops)

    def backward(self, gradients: Gradients) -> Gradients:
        """The gradients of the bottoms, None where not wanted; those of the parameters are added to theirs.

        gradients: of the tops, None for 0; not all of them.
        """
        pairs = [(top, each) for top, each in zip(self._tops, gradients) if each is not None and top.requires_grad]
        blobs = [blob for layer in self.call.layers for blob in layer.blobs if blob.requires_grad]
        wanted = [x for x in self.kept if x.requires_grad]
        if not pairs or not (blobs or wanted):
            return [None] * len(self.kept)
        found = torch.autograd.grad(
            [top for top, _ in pairs], [*wanted, *blobs], [each for _, each in pairs], allow_unused=True
        )
        for blob, gradient in zip(blobs, found[len(wanted) :]):
            if gradient is not None:
                add_gradient(blob, gradient)
        mine = iter(found)
        return [next(mine) if x.requires_grad else None for x in self.kept]

    def forget(self) -> None:
        """Free what was kept for the gradient."""
        self.kept, self._tops = (), ()


class _Direct(Op):
    """A convolution by the kernel for small ones."""

    def __init__(self, call: LayerCall, needs: Sequence[bool], shapes: tuple[Shape, Shape], window: Numbers) -> None:
        super().__init__(call, needs)
        (n, c, height, width), self._top = shapes
        numbers = (n, height, width, c, self._top[1], *window, *self._top[2:])
        self._shape = (ctypes.c_int64 * len(numbers))(*numbers)
        self._library = library()
        self._weights: Sequence[torch.Tensor] = ()

    def weights(self) -> Sequence[torch.Tensor]:
        """The kernel, and the bias if there is one."""
        return self.call.layer.blobs

    def give(self, gradients: Gradients) -> None:
        """Pass on the gradients of the `weights`, None for those that need none."""
        for blob, gradient in zip(self.call.layer.blobs, gradients):
            if gradient is not None:
                add_gradient(blob, gradient)

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        assert self._library is not None
        x, self._weights = norm.dense(bottoms[0]), self.weights()
        y = torch.empty(self._top, memory_format=torch.channels_last)
        kernel, *bias = (each.data_ptr() for each in self._weights)
        self._library.conv_forward(self._shape, x.data_ptr(), kernel, bias[0] if bias else None, y.data_ptr())
        self.kept = (x,)
        return (y,)

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        assert self._library is not None and gradients[0] is not None
        (x,), weights = self.kept, self._weights
        given = norm.dense(gradients[0])
        back = torch.empty_like(x) if self.needs[0] else None
        found = [torch.empty(each.shape) if each.requires_grad else None for each in weights]
        self._library.conv_backward(
            self._shape,
            x.data_ptr(),
            weights[0].data_ptr(),
            given.data_ptr(),
            *(None if each is None else each.data_ptr() for each in (back, *(*found, None)[:2])),
        )
        self.give(found)
        return (back,)


class _Joined(_Direct):
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
            for blob, gradient in zip(blobs, torch.autograd.grad(made, blobs, given, allow_unused=True)):
                if gradient is not None:
                    add_gradient(blob, gradient)

    @override
    def forget(self) -> None:
        super().forget()
        self._weights = ()


class _Chain(Op):
    """A BatchNorm with what is behind it, by the batch's statistics."""

    def __init__(self, call: LayerCall, needs: Sequence[bool]) -> None:
        super().__init__(call, needs)
        assert call.chain is not None
        self._norm, self._scale = call.chain.norm, call.chain.scale
        self._cuts, self._adds = call.chain.relu is not None, call.chain.total is not None
        get = self._norm.options.get
        self._eps, self._fraction = float(get("eps")), float(get("moving_average_fraction"))

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        x, *others = map(norm.dense, bottoms)
        mean, variance, gathered = self._norm.blobs
        blobs = [] if self._scale is None else self._scale.blobs
        weight, bias = (*blobs, None, None)[:2]
        batch = self._eps, self._fraction, (mean, variance, gathered)
        out, numbers = norm.forward(x, others[0] if self._adds else None, weight, bias, self._cuts, batch)
        self.kept = (x, out, numbers)
        return (out,)

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        assert gradients[0] is not None
        x, out, numbers = self.kept
        adds = self._adds and self.needs[1]
        back, passed, *found = norm.backward(gradients[0], out if self._cuts else None, x, numbers, adds)
        for blob, gradient in zip([] if self._scale is None else self._scale.blobs, found):
            if blob.requires_grad:
                add_gradient(blob, gradient)
        return [back if self.needs[0] else None, passed][: len(self.needs)]


class _Product(Op):
    """An InnerProduct."""

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        self.kept = (bottoms[0],)
        return self.call.layer.run(*bottoms)

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        (x,), blobs = self.kept, self.call.layer.blobs
        assert gradients[0] is not None
        given = gradients[0].reshape(-1, blobs[0].shape[0])
        if blobs[0].requires_grad:
            add_gradient(blobs[0], given.t() @ x.reshape(given.shape[0], -1))
        if len(blobs) > 1 and blobs[1].requires_grad:
            add_gradient(blobs[1], given.sum(0))
        return ((given @ blobs[0]).view(x.shape) if self.needs[0] else None,)


class _Mean(Op):
    """A Pooling of the mean of each channel."""

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        self._form = bottoms[0].shape
        return (bottoms[0].mean((2, 3), keepdim=True),)

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        assert gradients[0] is not None
        share = gradients[0] / math.prod(self._form[2:])
        return (norm.dense(share.expand(self._form)) if self.needs[0] else None,)


class _Loss(Op):
    """A SoftmaxWithLoss over labels that all count."""

    @override
    def forward(self, bottoms: Sequence[torch.Tensor]) -> Tops:
        layer = self.call.layer
        assert isinstance(layer, SoftmaxWithLoss)
        scores, labels = bottoms[0].contiguous(), bottoms[1].float().contiguous()
        loss, gradient = torch.empty(()), torch.empty_like(scores)
        found = library()
        assert found is not None
        rows, divisor = layer.outer, float(layer.normalizer("VALID", None))
        told = (rows, layer.classes, LEAST_SOFTMAX, divisor, loss.data_ptr(), gradient.data_ptr())
        if found.softmax_loss(scores.data_ptr(), labels.data_ptr(), *told):
            layer.labels(bottoms[1])  # It says which.
        self.kept = (gradient,)
        return (loss,)

    @override
    def backward(self, gradients: Gradients) -> Gradients:
        assert gradients[0] is not None
        return (self.kept[0] * gradients[0] if self.needs[0] else None, *[None] * (len(self.needs) - 1))


def op_for(call: LayerCall, shapes: Mapping[str, Shape], needs: Sequence[bool]) -> Op:
    """The operation of a call.

    Args:
        call: it has bottoms.
        shapes: of the blobs by name.
        needs: for each bottom whether its gradient is wanted.
    """
    layer, bottom = call.layer, shapes[call.bottoms[0]]
    if call.chain is not None:
        return _Chain(call, needs) if call.chain.norm.has_kernel(len(bottom)) else Op(call, needs)
    ends = bottom, shapes[call.tops[0]] if call.tops else ()
    if isinstance(call, JoinedCall):
        assert call.linear is not None
        window = call.linear.window
        small = math.prod(ends[1]) * math.prod((call.linear.shape[1], *window.size)) <= _DIRECT
        numbers = (*window.size, *window.stride, *window.pad, 1, 1)
        return _Joined(call, needs, ends, numbers) if small else Op(call, needs)
    # Types of their own, not those that forks derive from them.
    if type(layer) is Convolution and len(call.bottoms) == 1:
        small = math.prod(ends[1]) * layer.blobs[0][0].numel() <= _DIRECT
        if small and layer.first == 1 and len(bottom) == 4 and layer.group == 1:
            w = layer.window
            return _Direct(call, needs, ends, (*w.kernel, *w.stride, *w.pad, *w.dilation))
    elif type(layer) is InnerProduct and not layer.transposed:
        return _Product(call, needs)
    elif type(layer) is Pooling and layer.is_global and layer.options.get("pool") == "AVE":
        return _Mean(call, needs)
    elif type(layer) is SoftmaxWithLoss and layer.inner == 1 and layer.ignored is None:
        return _Loss(call, needs)
    return Op(call, needs)
