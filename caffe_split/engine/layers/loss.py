"""Losses and measures."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch.nn import functional as F

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.net.options import Options

# Caffe takes no logarithm of less: FLT_MIN for softmax, 1e-20 for the two losses on probabilities.
_LEAST_SOFTMAX = math.log(1.1754943508222875e-38)
_LEAST = 1e-20


def _limited(logs: torch.Tensor, least: float) -> torch.Tensor:
    """Logarithms of at least `least`: as Caffe, which limits the value and not the gradient."""
    return logs.detach().clamp(min=least) + (logs - logs.detach())


class Softmax(Layer):
    options_name = "softmax_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        return (torch.softmax(bottoms[0], self.axis(self.options.get("axis"), bottoms[0].dim())),)


class Labelled(Layer):
    """A layer over scores (outer, classes, inner) and labels (outer, inner), whatever axes these come from."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        shape = bottoms[0]
        self.along = self.axis(self.options.get("axis"), len(shape))
        self.outer, self.inner = math.prod(shape[: self.along]), math.prod(shape[self.along + 1 :])
        self.classes = shape[self.along]
        if math.prod(bottoms[1]) != self.outer * self.inner:
            raise self.error(
                f"{math.prod(bottoms[1])} labels for scores of shape {shape}; expected {self.outer * self.inner}, one "
                f"a place (axis {self.along} counts the classes)."
            )
        param = self.ignore_from()
        self.ignored = int(param.get("ignore_label")) if param.has("ignore_label") else None

    def ignore_from(self) -> Options:
        return Options.of(self.text.message, "loss_param")

    def places(self, scores: torch.Tensor) -> torch.Tensor:
        return scores.reshape(self.outer, self.classes, self.inner)

    def labels(self, bottom: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(labels, whether each counts or None for all), of shape (outer, inner); what does not count becomes 0.

        Raises `CaffeSplitError` for a label that is no class, where looking does not hold up a device.
        """
        labels = bottom.detach().reshape(self.outer, self.inner).long()
        counts = None
        if self.ignored is not None:
            counts = labels != self.ignored
            labels = labels * counts
        if labels.device.type == "cpu":
            self.check(*(int(value) for value in labels.aminmax()))
        return labels, counts

    def check(self, low: int, high: int) -> None:
        """Raises `CaffeSplitError` where the lowest or the highest of some labels is no class."""
        if low < 0 or high >= self.classes:
            raise self.error(
                f"a label is {low if low < 0 else high}, but bottom '{self.text.bottoms[0]}' scores the "
                f"{self.classes} classes 0 to {self.classes - 1}."
            )

    def check_all(self, labels: np.ndarray) -> None:
        """Raises `CaffeSplitError` where one of the labels that count is no class."""
        counted = labels.astype(int)[labels.astype(int) != self.ignored]
        if counted.size:
            self.check(int(counted.min()), int(counted.max()))

    def normalizer(self, default: str, counts: torch.Tensor | None) -> torch.Tensor | float:
        """What the sum is divided by: at least 1.

        Of several processes each divides by its share of what the whole batch is divided by, so that the mean of their
        losses is the loss of the whole batch.
        """
        group = self.place.group
        param = Options.of(self.text.message, "loss_param")
        mode = default
        if param.has("normalization"):
            mode = param.get("normalization")
        elif param.has("normalize"):
            mode = "VALID" if param.get("normalize") else "BATCH_SIZE"
        if mode == "VALID" and counts is not None:
            return self.valid(counts.sum())
        outer = self.outer * group.size
        return float(max(1, {"BATCH_SIZE": outer, "NONE": 1}.get(mode, outer * self.inner))) / group.size

    def valid(self, number: torch.Tensor) -> torch.Tensor:
        """This process's share of the whole batch's number of labels that count, which is taken to be at least 1."""
        group = self.place.group
        whole = group.total(number).clamp(min=1)
        return whole / group.size if group.size > 1 else whole


class SoftmaxWithLoss(Labelled):
    options_name = "softmax_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        labels, counts = self.labels(bottoms[1])
        logs = torch.log_softmax(self.places(bottoms[0]), 1)
        logs_of = logs.gather(1, labels[:, None])[:, 0]
        losses = -_limited(logs_of, _LEAST_SOFTMAX)
        if counts is not None:
            losses = losses * counts
        return (losses.sum() / self.normalizer("VALID", counts),)


class InfogainLoss(Labelled):
    options_name = "infogain_loss_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        super().setup(bottoms)
        if len(bottoms) < 3:
            self.buffers = [torch.from_numpy(self._matrix())]
        elif math.prod(bottoms[2]) != self.classes**2:
            raise self.error(f"an infogain matrix of shape {bottoms[2]} for {self.classes} classes.")

    def _matrix(self) -> np.ndarray:
        from caffe_split.formats.weights.binaryproto import read_blob

        values = read_blob(str(self.options.get("source")))
        if values.size != self.classes**2:
            raise self.error(f"{self.options.get('source')} holds {values.size} values for {self.classes} classes.")
        return values.reshape(self.classes, self.classes)

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
    """The share of labels that fewer than top_k other classes reach; with a second top, class by class."""

    options_name = "accuracy_param"

    def ignore_from(self) -> Options:
        return self.options

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
    """The loss of probabilities that are there already: one label an image, all values of it being classes."""

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.outer, self.inner, self.classes = bottoms[0][0], 1, math.prod(bottoms[0][1:])
        self.ignored = None

    def run(self, *bottoms: torch.Tensor) -> Tops:
        labels, _ = self.labels(bottoms[1])
        chosen = self.places(bottoms[0]).gather(1, labels[:, None])
        limited = chosen.detach().clamp(min=_LEAST)
        # The value is that of the limited probability, and the gradient 1 over it.
        return (-(limited.log() + (chosen - chosen.detach()) / limited).sum() / self.outer,)


class HingeLoss(Labelled):
    """One class against all others."""

    options_name = "hinge_loss_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.outer, self.inner, self.classes = bottoms[0][0], 1, math.prod(bottoms[0][1:])
        self.ignored = None

    def run(self, *bottoms: torch.Tensor) -> Tops:
        labels, _ = self.labels(bottoms[1])
        scores = self.places(bottoms[0])
        signs = torch.ones_like(scores).scatter(1, labels[:, None], -1.0)
        margins = (1 + signs * scores).clamp(min=0)
        total = (margins * margins).sum() if self.options.get("norm") == "L2" else margins.sum()
        return (total / self.outer,)


class EuclideanLoss(Layer):
    def run(self, *bottoms: torch.Tensor) -> Tops:
        difference = bottoms[0].flatten(1) - bottoms[1].flatten(1)
        return ((difference * difference).sum() / bottoms[0].shape[0] / 2,)


class SigmoidCrossEntropyLoss(Labelled):
    def setup(self, bottoms: Sequence[Shape]) -> None:
        if math.prod(bottoms[0]) != math.prod(bottoms[1]):
            raise self.error(f"bottoms of shapes {bottoms[0]} and {bottoms[1]}; expected as many targets as scores.")
        self.outer, self.inner = bottoms[0][0], math.prod(bottoms[0][1:])
        param = self.ignore_from()
        self.ignored = int(param.get("ignore_label")) if param.has("ignore_label") else None

    def run(self, *bottoms: torch.Tensor) -> Tops:
        target = bottoms[1].detach().reshape(bottoms[0].shape)
        counts = None if self.ignored is None else target.long() != self.ignored
        losses = F.binary_cross_entropy_with_logits(bottoms[0], target, reduction="none")
        if counts is not None:
            losses = losses * counts
        return (losses.sum() / self.normalizer("BATCH_SIZE", counts),)


class ContrastiveLoss(Layer):
    """For pairs that are alike (label not 0) the squared distance, for others what lacks to the margin."""

    options_name = "contrastive_loss_param"

    def run(self, *bottoms: torch.Tensor) -> Tops:
        difference = (bottoms[0] - bottoms[1]).flatten(1)
        squares = (difference * difference).sum(1)
        margin = self.options.get("margin")
        if self.options.get("legacy_version"):
            apart = (margin - squares).clamp(min=0)
        else:
            # Caffe divides the gradient by the distance plus 1e-4, so that it ends at distance 0.
            distance = squares.detach().sqrt()
            lacking = (margin - distance).clamp(min=0)
            slope = -lacking / (distance + 1e-4)
            apart = lacking * lacking + slope * (squares - squares.detach())
        alike = bottoms[2].detach().reshape(-1).long() != 0
        return (torch.where(alike, squares, apart).sum() / len(squares) / 2,)
