"""SSD's loss."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.detection import overlaps
from caffe_split.net.options import Options


class MultiBoxLoss(Layer):
    """The loss of SSD's boxes (Liu et al.): of matched prior boxes' locations, and of scores, also of hard negatives.

    The bottoms are locations (N, priors * 4), scores (N, priors * classes), prior boxes (1, 2, priors * 4), and objects
    (1, 1, M, 8): image, class, number, left, top, right, bottom, difficult; image -1 for none. Each object is matched
    with the prior box that overlaps it most, and, PER_PREDICTION, prior boxes with the object that they overlap most,
    from overlap_threshold on. Of the others, those of less overlap than neg_overlap whose background scores are worst
    count as negatives, neg_pos_ratio times as many as are matched in their image. The sum is divided as `normalization`
    says. Scores lose as a softmax's or, LOGISTIC, each as a sigmoid's, whose target is 1 for the box's class.
    """

    options_name = "multibox_loss_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        self.classes = int(self.options.get("num_classes"))
        downs = [bool(down) for down in self.text.message.get_all("propagate_down")] or [True] * 2
        self.counts_locations, self.counts_scores = downs[:2]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        prior, objects = bottoms[2].detach(), bottoms[3].detach().reshape(-1, 8)
        boxes, variances = prior.reshape(2, -1, 4)
        images = bottoms[0].shape[0]
        loc = bottoms[0].reshape(images, len(boxes), 4)
        conf = bottoms[1].reshape(images, len(boxes), self.classes)
        background = int(self.options.get("background_label_id"))
        located, scored, matched = loc.new_zeros(()), loc.new_zeros(()), 0
        for image in range(images):
            found = objects[objects[:, 0] == image]
            if not self.options.get("use_difficult_gt"):
                found = found[found[:, 7] == 0]
            self._check(found, background)
            match, best = self._match(found[:, 3:7], boxes)
            chosen = match >= 0
            matched += int(chosen.sum())
            labels = torch.full_like(match, background)
            labels[chosen] = found[match[chosen], 1].long()
            if bool(chosen.any()):
                target = _encode(boxes[chosen], variances[chosen], found[match[chosen], 3:7], self.options)
                located = located + self._distance(loc[image][chosen], target)
            losses = self._losses(conf[image], labels)
            scored = scored + losses[self._counted(chosen, best, losses.detach(), len(found))].sum()
        total = loc.new_zeros(())
        if self.counts_locations:
            total = total + float(self.options.get("loc_weight")) * located
        if self.counts_scores:
            total = total + scored
        return (total / self._divisor(images, len(boxes), matched),)

    def _check(self, found: torch.Tensor, background: int) -> None:
        """Raises `CaffeSplitError` for an object of no class, or of the background."""
        if found.device.type == "cpu":
            for label in found[:, 1].tolist():
                if not 0 <= label < self.classes or label == background:
                    raise self.error(
                        f"an object of class {label:g}; expected one of 0 to {self.classes - 1} other than the "
                        f"background, {background}."
                    )

    def _match(self, found: torch.Tensor, boxes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """(index of the object of each prior box or -1, its largest overlap with any)."""
        match = torch.full((len(boxes),), -1, dtype=torch.long, device=boxes.device)
        if not len(found):
            return match, torch.zeros(len(boxes), device=boxes.device)
        table = torch.stack([overlaps(box, boxes) for box in found], 1)
        table = torch.where(table > 1e-6, table, torch.zeros_like(table))
        best = table.max(1).values
        left = table.clone()
        for _ in range(len(found)):
            place = int(left.argmax())
            row, column = divmod(place, len(found))
            if left[row, column] <= 0:
                break
            match[row] = column
            left[row], left[:, column] = 0, 0
        if self.options.get("match_type") == "PER_PREDICTION":
            free = (match < 0) & (best >= self.options.get("overlap_threshold")) & (best > 0)
            match[free] = table[free].argmax(1)
        return match, best

    def _counted(self, chosen: torch.Tensor, best: torch.Tensor, losses: torch.Tensor, objects: int) -> torch.Tensor:
        """Which prior boxes' scores count (priors,): the matched ones, and negatives."""
        if self.options.get("mining_type") == "NONE":
            return torch.ones_like(chosen)
        counted = chosen.clone()
        if objects:
            free = ~chosen & (best < self.options.get("neg_overlap"))
            count = min(int(int(chosen.sum()) * self.options.get("neg_pos_ratio")), int(free.sum()))
            worst = torch.where(free, losses, torch.full_like(losses, -torch.inf)).argsort(descending=True, stable=True)
            counted[worst[:count]] = True
        return counted

    def _losses(self, scores: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        """The loss of each prior box's scores: of their softmax, or LOGISTIC, of each class by itself."""
        if self.options.get("conf_loss_type") == "SOFTMAX":
            return functional.cross_entropy(scores, labels, reduction="none")
        target = functional.one_hot(labels, self.classes).to(scores.dtype)
        return functional.binary_cross_entropy_with_logits(scores, target, reduction="none").sum(1)

    def _distance(self, loc: torch.Tensor, target: torch.Tensor) -> torch.Tensor:
        if self.options.get("loc_loss_type") == "L2":
            return ((loc - target) ** 2).sum() / 2
        return functional.smooth_l1_loss(loc, target, reduction="sum")

    def _divisor(self, images: int, priors: int, matched: int) -> float:
        param = Options.of(self.text.message, "loss_param")
        mode = str(param.get("normalization"))
        if param.has("normalize") and not param.has("normalization"):
            mode = "VALID" if param.get("normalize") else "BATCH_SIZE"
        return float(max({"VALID": matched, "FULL": images * priors, "BATCH_SIZE": images}.get(mode, 1), 1))


def _encode(prior: torch.Tensor, variances: torch.Tensor, box: torch.Tensor, options: Options) -> torch.Tensor:
    """The locations (n, 4) that mean `box` relative to prior boxes; `DetectionOutput` decodes them."""
    sides = prior[:, 2:] - prior[:, :2]
    code = options.get("code_type")
    if code == "CENTER_SIZE":
        own = box[:, 2:] - box[:, :2]
        moved = ((box[:, :2] + box[:, 2:]) - (prior[:, :2] + prior[:, 2:])) / 2 / sides
        found = torch.cat([moved, (own / sides).log()], 1)
    elif code == "CORNER_SIZE":
        found = (box - prior) / sides.repeat(1, 2)
    else:
        found = box - prior
    return found if options.get("encode_variance_in_target") else found / variances
