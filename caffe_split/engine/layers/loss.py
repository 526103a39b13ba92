"""Losses, the accuracy, and Softmax."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.labels import Labelled
from caffe_split.formats.weights.binaryproto import read_blob
from caffe_split.net.options import Options

# Caffe limits probabilities from below before it takes the logarithm: at FLT_MIN in SoftmaxWithLoss, at 1e-20 in
# InfogainLoss and MultinomialLogisticLoss.
LEAST_SOFTMAX = math.log(1.1754943508222875e-38)
_LEAST = 1e-20


def _limited(logs: torch.Tensor, least: float) -> torch.Tensor:
    """Logarithms limited from below to `least`, with the gradient of the unlimited ones, as in Caffe."""
    return logs.detach().clamp(min=least) + (logs - logs.detach())


class Softmax(Layer):
    """e^x divided by the sum of e^x along an axis."""

    options_name = "softmax_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.along = self.axis(self.options.get("axis"), len(bottoms[0]))

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (torch.softmax(bottoms[0], self.along),)

    @override
    def gradients(
        self,
        given: Sequence[torch.Tensor],
        now: Sequence[torch.Tensor],
        top: torch.Tensor,
        gradient: torch.Tensor,
        needs: Sequence[bool],
    ) -> list[torch.Tensor | None]:
        return [(gradient - (gradient * top).sum(self.along, keepdim=True)) * top]


class SoftmaxWithLoss(Labelled):
    """The mean of -log p over the labels that count, where p is the softmax of the scores at the label.

    With weight_by_label_freqs (SegNet) each is multiplied by the class_weighting of its label, `weights`; without
    class_weighting it is divided by the number of its label in the batch. What the sum is divided by stays the number
    of labels.
    """

    options_name = "softmax_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        self.need_same_records(bottoms)
        param = Options.of(self.text.message, "loss_param")
        weighs, weights = bool(param.get("weight_by_label_freqs")), param.all("class_weighting")
        self.weights = [float(weight) for weight in weights] if weighs else []
        self.counts_labels, self.is_weighted = weighs and not weights, weighs
        if self.weights and len(self.weights) != self.classes:
            raise self.error(f"{len(self.weights)} class_weighting for {self.classes} classes; expected one each.")
        self.buffers = [torch.tensor(self.weights)] if self.weights else []

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        losses, counts = self.losses(bottoms)
        return (losses.sum() / self.normalizer("VALID", counts),)

    def losses(self, bottoms: Sequence[torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor | None]:
        """The loss of each label, 0 where it does not count; and which count, None for all."""
        labels, counts = self.labels(bottoms[1])
        logs = torch.log_softmax(self.places(bottoms[0]), 1)
        logs_of = logs.gather(1, labels[:, None])[:, 0]
        losses = -_limited(logs_of, LEAST_SOFTMAX)
        if self.weights:
            losses = losses * self.buffers[0][labels]
        elif self.counts_labels:
            every = bottoms[1].detach().reshape(-1).long()
            numbers = torch.bincount(every[every >= 0], minlength=self.classes)
            losses = losses / numbers[labels].clamp(min=1)
        return (losses if counts is None else losses * counts), counts


class InfogainLoss(Labelled):
    """The mean over the labels of -sum_k H[label, k] log p_k, where p is the softmax of the scores.

    The matrix H (classes, classes) is the third bottom or read from `source`. A second top gets the softmax.
    """

    options_name = "infogain_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        super().setup(bottoms)
        if len(bottoms) < 3:
            self.buffers = [torch.from_numpy(self._matrix())]

    def _matrix(self) -> np.ndarray:
        values = read_blob(str(self.options.get("source")))
        if values.size != self.classes**2:
            raise self.error(f"{self.options.get('source')} holds {values.size} values for {self.classes} classes.")
        return values.reshape(self.classes, self.classes)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        labels, counts = self.labels(bottoms[1])
        matrix = (bottoms[2].detach() if len(bottoms) > 2 else self.buffers[0]).reshape(self.classes, self.classes)
        logs = _limited(torch.log_softmax(self.places(bottoms[0]), 1), math.log(_LEAST))
        losses = -(matrix[labels].movedim(-1, 1) * logs).sum(1)
        if counts is not None:
            losses = losses * counts
        loss = losses.sum() / self.normalizer("VALID", counts)
        if len(self.text.tops) > 1:
            return loss, torch.softmax(bottoms[0].detach(), self.along)
        return (loss,)


class Accuracy(Labelled):
    """The share of the labels whose score is among the top_k largest. A second top gets that of each class.

    A class of equal score counts as better. No gradient.
    """

    options_name = "accuracy_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        top_k = int(self.options.get("top_k"))
        if top_k > self.classes:
            raise self.error(f"top_k is {top_k}; there are {self.classes} classes.")

    @override
    def ignore_from(self) -> Options:
        return self.options

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        scores = self.places(bottoms[0].detach())
        labels, counts = self.labels(bottoms[1])
        better = (scores >= scores.gather(1, labels[:, None])).sum(1) - 1
        right = (better < int(self.options.get("top_k"))).float()
        weight = torch.ones_like(right) if counts is None else counts.float()
        right = right * weight
        accuracy = right.sum() / self.valid(weight.sum())
        if len(self.text.tops) < 2:
            return (accuracy,)
        zeros = torch.zeros(self.classes, device=right.device)
        numbers = zeros.index_add(0, labels.reshape(-1), weight.reshape(-1))
        return accuracy, zeros.index_add(0, labels.reshape(-1), right.reshape(-1)) / self.valid(numbers)


class MultinomialLogisticLoss(Labelled):
    """The mean over the images of -log p, where the bottom holds probabilities, and p is that of the label."""

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        self.need_axes(bottoms[0], 1, 4)
        self.outer, self.inner, self.classes = bottoms[0][0], 1, math.prod(bottoms[0][1:])
        self.ignored = None

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        labels, _ = self.labels(bottoms[1])
        chosen = self.places(bottoms[0]).gather(1, labels[:, None])
        limited = chosen.detach().clamp(min=_LEAST)
        # The value is the logarithm of the limited probability, and the gradient 1 over it.
        return (-(limited.log() + (chosen - chosen.detach()) / limited).sum() / self.outer,)


class HingeLoss(Labelled):
    """The mean over the images of sum_k max(0, 1 - t_k score_k), each term squared if norm is L2.

    t_k is 1 for the class of the label, and -1 for all others.
    """

    options_name = "hinge_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        self.need_axes(bottoms[0], 1, 4)
        self.outer, self.inner, self.classes = bottoms[0][0], 1, math.prod(bottoms[0][1:])
        self.ignored = None

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        labels, _ = self.labels(bottoms[1])
        scores = self.places(bottoms[0])
        signs = torch.ones_like(scores).scatter(1, labels[:, None], -1.0)
        margins = (1 + signs * scores).clamp(min=0)
        total = (margins * margins).sum() if self.options.get("norm") == "L2" else margins.sum()
        return (total / self.outer,)


class EuclideanLoss(Layer):
    """The sum of squared differences of two bottoms, divided by twice the number of images.

    The bottoms may have other shapes, with as many records and values in each.
    """

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        self.need_axes(bottoms[0], 1, 4)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        difference = bottoms[0].reshape(-1) - bottoms[1].reshape(-1)
        return ((difference * difference).sum() / bottoms[0].shape[0] / 2,)


class SigmoidCrossEntropyLoss(Labelled):
    """The sum of -t log s - (1 - t) log(1 - s), where s is the sigmoid of a score and t its target from 0 to 1.

    It is divided by the number of images unless `normalization` says otherwise.
    """

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        self.outer, self.inner = bottoms[0][0], math.prod(bottoms[0][1:])
        param = self.ignore_from()
        self.ignored = int(param.get("ignore_label")) if param.has("ignore_label") else None

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        target = bottoms[1].detach().reshape(bottoms[0].shape)
        counts = None if self.ignored is None else target.long() != self.ignored
        losses = functional.binary_cross_entropy_with_logits(bottoms[0], target, reduction="none")
        if counts is not None:
            losses = losses * counts
        return (losses.sum() / self.normalizer("BATCH_SIZE", counts),)


class ContrastiveLoss(Layer):
    """The mean over pairs of half of d^2 for alike ones (label not 0), and of max(0, margin - d)^2 for others.

    d is the distance of the two vectors of a pair. With legacy_version the second term is max(0, margin - d^2).
    """

    options_name = "contrastive_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        difference = bottoms[0].flatten(1) - bottoms[1].flatten(1)
        squares = (difference * difference).sum(1)
        margin = self.options.get("margin")
        if self.options.get("legacy_version"):
            unlike = (margin - squares).clamp(min=0)
        else:
            # The gradient is Caffe's, which divides by the distance plus 1e-4, so that it is finite at distance 0.
            distance = squares.detach().sqrt()
            lacking = (margin - distance).clamp(min=0)
            slope = -lacking / (distance + 1e-4)
            unlike = lacking * lacking + slope * (squares - squares.detach())
        alike = bottoms[2].detach().reshape(-1).long() != 0
        return (torch.where(alike, squares, unlike).sum() / len(squares) / 2,)
