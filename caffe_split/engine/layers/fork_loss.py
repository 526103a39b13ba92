"""Losses that forks of Caffe added."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill
from caffe_split.engine.layers.labels import Labelled
from caffe_split.engine.layers.loss import SoftmaxWithLoss


class L1Loss(Layer):
    """The sum of |d|, divided by the number of records; d is the difference of two bottoms, or the only bottom.

    As in FlowNet (Fischer et al.), a d that is not a number counts as 0. With l2_per_location it is the sum of
    sqrt(epsilon + sum of squares over the channels) of each place; with normalize_by_num_entries the sum is divided
    by the number of values that are numbers, divided by the channels.
    """

    options_name = "l1_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms) > 1 and math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.error(f"bottoms of shapes {bottoms[0]} and {bottoms[1]}; expected as many values.")
        self.need_axes(bottoms[0], 1, 4)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        d = bottoms[0] - bottoms[1].reshape(bottoms[0].shape) if len(bottoms) > 1 else bottoms[0]
        known = ~d.detach().isnan()
        d = torch.where(known, d, torch.zeros_like(d))
        divisor: torch.Tensor | int = len(d)
        if self.options.get("normalize_by_num_entries"):
            divisor = known.sum().clamp(min=1) / (d.shape[1] if d.dim() > 1 else 1)
        if self.options.get("l2_per_location"):
            return (((d * d).sum(1) + self.options.get("epsilon")).sqrt().sum() / divisor,)
        return (d.abs().sum() / divisor,)


class FocalLoss(Labelled):
    """-alpha (1 - p)^gamma log p, where p is the softmax of the scores at the label (Lin et al.).

    The sum is divided as that of SoftmaxWithLoss.
    """

    options_name = "softmax_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        self.need_same_records(bottoms)
        param = self.text.message.sub("focal_loss_param")
        assert param is not None, "the check wants alpha and gamma"
        self.alpha, self.gamma = float(param.get("alpha")), float(param.get("gamma"))

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        labels, counts = self.labels(bottoms[1])
        logs = torch.log_softmax(self.places(bottoms[0]), 1).gather(1, labels[:, None])[:, 0]
        losses = -self.alpha * (1 - logs.exp()) ** self.gamma * logs
        if counts is not None:
            losses = losses * counts
        return (losses.sum() / self.normalizer("VALID", counts),)


class WeightedSoftmaxWithLoss(SoftmaxWithLoss):
    """SoftmaxWithLoss in which each label of the class pos_cid counts pos_mult times.

    What the sum is divided by stays the number of labels.
    """

    @override
    def losses(self, bottoms: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        losses, counts = super().losses(bottoms)
        labels, _ = self.labels(bottoms[1])
        is_positive = labels == int(self.options.get("pos_cid"))
        return torch.where(is_positive, losses * float(self.options.get("pos_mult")), losses), counts


class LiftedStructSimilaritySoftmaxLoss(Layer):
    """The loss of lifted structures (Oh Song et al.): over pairs of records with one label, J(i, j)^2 / (2 pairs).

    J(i, j) is 0 or, where that is above 0, D(i, j) + log of the sum, over i and j and over the records k of other
    labels, of exp(margin - D(i or j, k)); D is the distance of two records' features. Without a pair the loss is 0.
    """

    options_name = "lifted_struct_sim_softmax_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.need_axes(bottoms[0], 2, 4)
        self.need_same_records(bottoms)
        if math.prod(bottoms[1]) != bottoms[0][0]:
            raise self.error(f"labels of shape {bottoms[1]}; expected one per record, ({bottoms[0][0]},).")

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, labels = bottoms[0].flatten(1), bottoms[1].detach().reshape(-1)
        squares = ((x[:, None] - x[None]) ** 2).sum(2)
        # The distance of equal records is 0, where the root has no slope.
        far = squares > 0
        distance = torch.where(far, torch.where(far, squares, torch.ones_like(squares)).sqrt(), squares)
        unlike = labels[:, None] != labels[None]
        margins = torch.where(
            unlike, float(self.options.get("margin")) - distance, torch.full_like(distance, -torch.inf)
        )
        others = margins.logsumexp(1)
        lifted = torch.logaddexp(others[:, None], others[None]) + distance
        pairs = (~unlike).triu(1)
        losses = torch.where(pairs & (lifted > 0), lifted, torch.zeros_like(lifted))
        return ((losses * losses).sum() / (2 * pairs.sum().clamp(min=1)),)


class CenterLoss(Layer):
    """The sum of squared distances of features from the centres of their classes, divided by twice their number.

    The centre of a class moves against the mean of its features' distances in the batch, over one more than there are
    (Wen et al.), whatever the loss's weight is; the rate of the layer's parameter is the paper's alpha.
    """

    options_name = "center_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        (shape,) = self.inferred(bottoms).params
        self.records = math.prod(bottoms[0]) // shape[1]
        if math.prod(bottoms[1]) != self.records:
            raise self.error(f"labels of shape {bottoms[1]} for features of {bottoms[0]}; expected {self.records}.")
        self.blobs = [fill(shape, self.options.sub("center_filler"), self.place.generator)]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        labels = bottoms[1].detach().reshape(-1).long()
        if labels.device.type == "cpu" and labels.numel():
            low, high = (int(value) for value in labels.aminmax())
            if low < 0 or high >= len(self.blobs[0]):
                raise self.error(f"a label is {low if low < 0 else high}; num_output is {len(self.blobs[0])}.")
        return (_Centers.apply(bottoms[0].reshape(self.records, -1), self.blobs[0], labels),)


class _Centers(torch.autograd.Function):
    """The loss of features (n, k), centres (classes, k) and labels (n,), with its own gradient of the centres."""

    apply: Callable[..., torch.Tensor]

    @staticmethod
    @override
    def forward(ctx: Any, x: torch.Tensor, centers: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        distance = x - centers[labels]
        ctx.save_for_backward(distance, labels)
        ctx.classes = len(centers)
        return (distance * distance).sum() / (2 * len(x))

    @staticmethod
    @override
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor | None, ...]:
        distance, labels = ctx.saved_tensors
        total = distance.new_zeros((ctx.classes, distance.shape[1])).index_add(0, labels, -distance)
        counts = distance.new_ones(ctx.classes).index_add(0, labels, distance.new_ones(len(labels)))
        return gradients[0] * distance / len(distance), total / counts[:, None], None
