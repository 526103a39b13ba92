"""Products of nets for faces, whose classes are kept apart by a margin between angles."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill


def _labels(layer: Layer, bottom: torch.Tensor, classes: int) -> torch.Tensor:
    """The labels, (records, 1). Raises `CaffeSplitError` for one that is no class; only on the CPU, as losses do."""
    labels = bottom.detach().reshape(-1, 1).long()
    if labels.device.type == "cpu" and labels.numel():
        low, high = (int(value) for value in labels.aminmax())
        if low < 0 or high >= classes:
            raise layer.error(
                f"a label of '{layer.text.bottoms[1]}' is {low if low < 0 else high}; its classes are 0 to "
                f"{classes - 1}."
            )
    return labels


_TIMES = {"SINGLE": 1, "DOUBLE": 2, "TRIPLE": 3, "QUADRUPLE": 4}


class _Margin(Layer):
    """The product of features and weights, in which the score of the label's class is lowered.

    With the angle t between the features and the weights of a class, whose lengths are |x| and |w|, a score is
    |x| |w| cos t, and that of the label (lambda |x| |w| cos t + |x| |w| psi(t)) / (1 + lambda), where psi(t) =
    (-1)^k cos(m t) - 2 k and k = floor(m t / pi); the type of the options says how large m is. Lambda falls with every
    batch that the layer has seen, to max(lambda_min, base (1 + gamma n)^-power), beginning at `iteration`; the second
    top is lambda.
    """

    # It counts the batches.
    eager = True
    seen = 0

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        (shape,) = self.inferred(bottoms).params
        self.first = self.axis(self.options.get("axis"), len(bottoms[0]))
        self.blobs = [fill(shape, self.options.sub("weight_filler"), self.place.generator)]
        self.times = _TIMES[str(self.options.get("type"))]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        self.seen += not bottoms[0].is_meta
        base, gamma, power, least = (float(self.options.get(n)) for n in ("base", "gamma", "power", "lambda_min"))
        share = max(base * (1 + gamma * (int(self.options.get("iteration")) + self.seen)) ** -power, least)
        x = bottoms[0].reshape(math.prod(bottoms[0].shape[: self.first]), -1)
        scores = self.scores(x, _labels(self, bottoms[1], len(self.blobs[0])), share)
        top = scores.view(*bottoms[0].shape[: self.first], -1)
        return (top, x.new_full((1,), share))[: len(self.text.tops)]

    def scores(self, x: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        """The scores (records, classes) of features (records, inputs) and labels (records, 1)."""
        raise NotImplementedError


class LargeMarginInnerProduct(_Margin):
    """L-Softmax (Liu et al., Large-Margin Softmax Loss for Convolutional Neural Networks)."""

    options_name = "largemargin_inner_product_param"

    @override
    def scores(self, x: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        plain = functional.linear(x, self.blobs[0])
        if self.times == 1:
            return plain
        own = plain.gather(1, labels)
        lengths = x.norm(dim=1, keepdim=True) * self.blobs[0][labels[:, 0]].norm(dim=1, keepdim=True) + 1e-9
        lowered = lengths * _psi(own / lengths, self.times)
        return plain.scatter(1, labels, (share * own + lowered) / (1 + share))


class MarginInnerProduct(_Margin):
    """A-Softmax (Liu et al., SphereFace): the weights of each class are divided by their length before each batch.

    As in its published code the gradient of the weights is that without the margin, and the part of the features'
    gradient that comes through psi has the length 1 times the score's own gradient.
    """

    options_name = "margin_inner_product_param"

    @override
    def scores(self, x: torch.Tensor, labels: torch.Tensor, share: float) -> torch.Tensor:
        weight = self.blobs[0]
        with torch.no_grad():
            unit = functional.normalize(weight, dim=1, eps=0.0)
        if self.training:
            weight.data.copy_(unit)
        else:
            weight = weight + (unit - weight).detach()
        if self.times == 1:
            return functional.linear(x, weight)
        apply: Callable[..., torch.Tensor] = _Sphere.apply
        return apply(x, weight, labels, self.times, share)


class _Sphere(torch.autograd.Function):
    """SphereFace's scores with the gradients of its published code."""

    @staticmethod
    def forward(
        ctx: Any, x: torch.Tensor, weight: torch.Tensor, labels: torch.Tensor, times: int, share: float
    ) -> torch.Tensor:
        plain = x @ weight.t()
        length = x.norm(dim=1, keepdim=True)
        own = plain.gather(1, labels)
        cosine = own / length
        ctx.save_for_backward(x, weight, labels, length, cosine)
        ctx.times, ctx.share = times, share
        return plain.scatter(1, labels, (share * own + length * _psi(cosine, times)) / (1 + share))

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        (gradient,) = gradients
        x, weight, labels, length, cosine = ctx.saved_tensors
        own = gradient.gather(1, labels)
        along = _slope(cosine, ctx.times)
        back = (_psi(cosine, ctx.times) - cosine * along) / length
        whole = (along * along + back * back).sqrt()
        # What reaches the weights of the label: its plain share, and the part through psi.
        plain = gradient.scatter(1, labels, own * ctx.share / (1 + ctx.share))
        through = (along * weight[labels[:, 0]] + back * x) / whole
        of_x = plain @ weight + own / (1 + ctx.share) * through
        return of_x, gradient.t() @ x, None, None, None


def _psi(cosine: torch.Tensor, times: int) -> torch.Tensor:
    """(-1)^k cos(m t) - 2 k of the cosines of angles t, m = `times`."""
    k = _folds(cosine, times)
    c = cosine
    multiple = {2: 2 * c**2 - 1, 3: 4 * c**3 - 3 * c, 4: 8 * c**4 - 8 * c**2 + 1}[times]
    return (1 - 2 * (k % 2)) * multiple - 2 * k


def _slope(cosine: torch.Tensor, times: int) -> torch.Tensor:
    """The derivative of `_psi` by the cosine."""
    c = cosine
    multiple = {2: 4 * c, 3: 12 * c**2 - 3, 4: 32 * c**3 - 16 * c}[times]
    return (1 - 2 * (_folds(cosine, times) % 2)) * multiple


def _folds(cosine: torch.Tensor, times: int) -> torch.Tensor:
    """How many of pi / m fit into each angle: k, from 0 to m - 1."""
    borders = [math.cos(math.pi * place / times) for place in range(1, times)]
    return sum((cosine.detach() < border).to(cosine.dtype) for border in borders)  # type: ignore[return-value]


class LabelSpecificAdd(Layer):
    """Scores, in TRAIN with `bias` added to that of the label (Wang et al., Additive Margin Softmax).

    As in the published code it is added to scores above -bias only.
    """

    options_name = "label_specific_add_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        bias = float(self.options.get("bias"))
        if not self.training or not bias:
            return (x,)
        rows = x.reshape(len(x), -1)
        labels = _labels(self, bottoms[1], rows.shape[1])
        own = rows.detach().gather(1, labels)
        return (rows.scatter_add(1, labels, torch.where(own > -bias, bias, 0.0).to(rows.dtype)).view(x.shape),)
