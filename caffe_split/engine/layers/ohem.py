"""Online hard example mining of R-FCN (Dai et al.): losses of single regions, and the choice of the hardest."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.loss import SoftmaxWithLoss
from caffe_split.formats.prototxt import Message
from caffe_split.net.options import Options


class SoftmaxWithLossOHEM(SoftmaxWithLoss):
    """SoftmaxWithLoss with two tops more: the probabilities, and the loss of each label."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        losses, counts = self.losses(bottoms)
        loss = losses.sum() / (_fixed(self.text.message) or self.normalizer("VALID", counts))
        others = torch.softmax(bottoms[0].detach(), self.along), losses.detach().reshape(bottoms[1].shape)
        return (loss, *others)[: len(self.text.tops)]


class SmoothL1LossOHEM(Layer):
    """The sum of SmoothL1Loss's f(d), and as a second top that of each place over its channels.

    A third bottom multiplies d. The sum is divided by pre_fixed_normalizer (PRE_FIXED), the records (BATCH_SIZE), or
    the records times the places of each.
    """

    options_name = "smooth_l1_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        for shape in bottoms[1:]:
            if shape != bottoms[0]:
                raise self.error(f"bottoms of shapes {bottoms[0]} and {shape}; expected one shape.")
        self.need_axes(bottoms[0], 2, 4)
        self.outer, self.inner = bottoms[0][0], math.prod(bottoms[0][2:])

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        difference = bottoms[0] - bottoms[1]
        if len(bottoms) > 2:
            difference = difference * bottoms[2].detach()
        square = float(self.options.get("sigma")) ** 2
        size = difference.abs()
        losses = torch.where(size < 1 / square, square / 2 * difference * difference, size - 0.5 / square)
        param = Options.of(self.text.message, "loss_param")
        mode = str(param.get("normalization"))
        if param.has("normalize") and not param.has("normalization"):
            mode = "VALID" if param.get("normalize") else "BATCH_SIZE"
        divisor = {"BATCH_SIZE": self.outer, "NONE": 1}.get(mode, self.outer * self.inner)
        loss = losses.sum() / (_fixed(self.text.message) or max(divisor, 1))
        each = losses.detach().sum(1, keepdim=True)
        return (loss, each.reshape(*each.shape, *[1] * (4 - each.dim())))[: len(self.text.tops)]


class BoxAnnotatorOHEM(Layer):
    """Labels and weights of the roi_per_img regions of each image with the largest losses.

    The bottoms are regions (five numbers each, first the image), losses, labels, and weights of boxes. All other
    regions get ignore_label and weights of 0.
    """

    options_name = "box_annotator_ohem_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        regions, losses, labels, weights = (bottom.detach() for bottom in bottoms)
        count = len(regions)
        images = regions.reshape(count, 5, -1)[:, 0].reshape(-1)
        losses = losses.reshape(-1)
        chosen = torch.zeros_like(losses, dtype=torch.bool)
        order = losses.argsort(descending=True, stable=True)
        for image in images.unique():
            chosen[order[images[order] == image][: int(self.options.get("roi_per_img"))]] = True
        kept = labels.reshape(-1).masked_fill(~chosen, self.options.get("ignore_label")).reshape(labels.shape)
        mask = chosen.reshape(count, 1, -1).to(weights.dtype)
        return kept, (weights.reshape(count, -1, mask.shape[2]) * mask).reshape(weights.shape)


def _fixed(message: Message) -> float | None:
    """The divisor of normalization: PRE_FIXED, else None."""
    param = Options.of(message, "loss_param")
    return float(param.get("pre_fixed_normalizer")) if param.get("normalization") == "PRE_FIXED" else None
