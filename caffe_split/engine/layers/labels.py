"""What layers with labels have in common: their classes, the labels that count, and what losses are divided by."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape
from caffe_split.layertypes.records.loss import need_labels
from caffe_split.net.options import Options


class Labelled(Layer):
    """A layer over scores viewed as (outer, classes, inner), and labels viewed as (outer, inner).

    `classes` is the length of the axis of the classes; `outer` and `inner` are the products of the lengths before and
    after it. `ignored` is the label that does not count (ignore_label), or None.
    """

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        shape = bottoms[0]
        self.along = self.axis(self.options.get("axis"), len(shape))
        self.outer, self.inner = math.prod(shape[: self.along]), math.prod(shape[self.along + 1 :])
        self.classes = shape[self.along]
        need_labels(self.text, shape, bottoms[1], self.along)
        param = self.ignore_from()
        self.ignored = int(param.get("ignore_label")) if param.has("ignore_label") else None

    def ignore_from(self) -> Options:
        """The options with ignore_label."""
        return Options.of(self.text.message, "loss_param")

    def places(self, scores: torch.Tensor) -> torch.Tensor:
        """The scores as (outer, classes, inner)."""
        return scores.reshape(self.outer, self.classes, self.inner)

    def labels(self, bottom: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """(labels, which of them count), each of shape (outer, inner); None instead of the latter if all count.

        Labels that do not count become 0. Raises `CaffeSplitError` for a label that is no class; only on the CPU, since
        a look at the values would make a CUDA device wait.
        """
        labels = bottom.detach().reshape(self.outer, self.inner).long()
        counts = None
        if self.ignored is not None:
            counts = labels != self.ignored
            labels = labels * counts
        if labels.device.type == "cpu" and labels.numel():
            self.check(*(int(value) for value in labels.aminmax()))
        return labels, counts

    def check(self, low: int, high: int) -> None:
        """Raises `CaffeSplitError` if the lowest or the highest of some labels is no class."""
        if low < 0 or high >= self.classes:
            raise self.error(
                f"a label is {low if low < 0 else high}, but bottom '{self.text.bottoms[0]}' scores the "
                f"{self.classes} classes 0 to {self.classes - 1}."
            )

    def check_all(self, labels: np.ndarray) -> None:
        """Raises `CaffeSplitError` if one of these labels counts and is no class."""
        counted = labels.astype(int)[labels.astype(int) != self.ignored]
        if counted.size:
            self.check(int(counted.min()), int(counted.max()))

    def normalizer(self, default: str, counts: torch.Tensor | None) -> torch.Tensor | float:
        """What the sum of losses is divided by, at least 1; `default` is the mode if loss_param gives none.

        The modes are those of Caffe's LossParameter: the number of labels that count (VALID), of all labels (FULL), of
        images (BATCH_SIZE), or 1 (NONE). Each of several processes divides by its share of the number for the whole
        batch, so that the mean of their losses is the loss of the whole batch.
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
        """This process's share of the number of labels in the whole batch that count, which is taken as at least 1."""
        group = self.place.group
        whole = group.total(number).clamp(min=1)
        return whole / group.size if group.size > 1 else whole
