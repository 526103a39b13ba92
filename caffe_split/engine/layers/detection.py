"""SSD's detections, from locations, scores and prior boxes."""

from __future__ import annotations

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Tops

Boxes = torch.Tensor


class DetectionOutput(Layer):
    """What is found in each image, after suppression of overlapping boxes (Liu et al., SSD).

    The bottoms are locations (N, priors * 4), for each class where share_location is false; scores (N, priors *
    classes), and prior boxes (1, 2, priors * 4). The top is (1, 1, found, 7): image, class, score, left, top, right,
    bottom; a row of -1 after each image's number where nothing is found in any.

    RefineDet (Zhang et al.) gives two bottoms more, of its first step: scores (N, priors * 2), of which the second says
    that there is an object, and locations (N, priors * 4). These move the prior boxes, and a box whose score of an
    object is below objectness_score is background.
    """

    options_name = "detection_output_param"
    varies = True

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        device = bottoms[0].device
        loc, conf, prior, *first = (bottom.detach().float().cpu() for bottom in bottoms)
        classes = int(self.options.get("num_classes"))
        shared = bool(self.options.get("share_location"))
        boxes, variances = prior.reshape(2, -1, 4)
        loc = loc.reshape(len(loc), len(boxes), -1, 4)
        conf = conf.reshape(len(conf), len(boxes), classes)
        if first:
            # Only the scores of other classes are read, so that 0 for these is the background.
            conf = conf * (first[0].reshape(len(conf), len(boxes), 2)[:, :, 1:] >= self.options.get("objectness_score"))
        rows = []
        for image in range(len(loc)):
            found = []
            moved = self._decode(boxes, variances, first[1].reshape(len(loc), -1, 4)[image]) if first else boxes
            for label in range(classes):
                if label != self.options.get("background_label_id"):
                    decoded = self._decode(moved, variances, loc[image, :, 0 if shared else label])
                    kept = self._suppress(decoded, conf[image, :, label])
                    found += [(float(conf[image, index, label]), label, index, decoded[index]) for index in kept]
            most = int(self.options.get("keep_top_k"))
            if -1 < most < len(found):
                # The best ones; within a class they then come by score, and classes in their order.
                best = sorted(found, key=lambda each: -each[0])[:most]
                found = sorted(best, key=lambda each: each[1])
            rows += [torch.cat([torch.tensor([image, label, score]), box]) for score, label, _, box in found]
        if not rows:
            rows = [torch.tensor([float(image), *[-1.0] * 6]) for image in range(len(loc))]
        return (torch.stack(rows).reshape(1, 1, -1, 7).to(device),)

    def _decode(self, prior: Boxes, variances: torch.Tensor, loc: torch.Tensor) -> Boxes:
        """The boxes (priors, 4) that locations relative to the prior boxes mean."""
        scaled = loc if self.options.get("variance_encoded_in_target") else loc * variances
        sides = prior[:, 2:] - prior[:, :2]
        code = self.options.get("code_type")
        if code == "CORNER":
            return prior + scaled
        if code == "CORNER_SIZE":
            return prior + scaled * sides.repeat(1, 2)
        middle = (prior[:, :2] + prior[:, 2:]) / 2 + scaled[:, :2] * sides
        half = scaled[:, 2:].exp() * sides / 2
        return torch.cat([middle - half, middle + half], 1)

    def _suppress(self, boxes: Boxes, scores: torch.Tensor) -> list[int]:
        """Indices of the boxes that are kept, from the best score on: those that overlap none before them too much."""
        nms = self.options.sub("nms_param")
        threshold, eta = float(nms.get("nms_threshold")), float(nms.get("eta"))
        order = scores.argsort(descending=True, stable=True)
        if self.options.has("confidence_threshold"):
            order = order[scores[order] > self.options.get("confidence_threshold")]
        if nms.has("top_k") and nms.get("top_k") > -1:
            order = order[: int(nms.get("top_k"))]
        kept: list[int] = []
        for index in order.tolist():
            if not kept or bool((overlaps(boxes[index], boxes[kept]) <= threshold).all()):
                kept.append(index)
                if eta < 1 and threshold > 0.5:
                    threshold *= eta
        return kept


def overlaps(box: Boxes, others: Boxes) -> torch.Tensor:
    """The intersection over the union of a box (4,) with each of others (n, 4); 0 for boxes without area."""
    shared = (torch.minimum(box[2:], others[:, 2:]) - torch.maximum(box[:2], others[:, :2])).clamp(min=0).prod(1)
    areas = (others[:, 2:] - others[:, :2]).clamp(min=0).prod(1)
    area = (box[2:] - box[:2]).clamp(min=0).prod()
    return torch.where(shared > 0, shared / (area + areas - shared), torch.zeros_like(shared))
