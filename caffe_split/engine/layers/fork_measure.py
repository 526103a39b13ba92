"""What forks of Caffe measure in tests."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.detection import overlaps


class SegAccuracy(Layer):
    """Of the pixels with a label that counts: the share of right ones, its mean over the classes, the mean overlap.

    The class of a pixel is that of its largest score. The mean share is over the classes that occur among the labels;
    the overlap of a class is intersection over union, 0 for one that occurs nowhere, and its mean is over all classes
    (Chen et al., DeepLab). No gradient.
    """

    options_name = "seg_accuracy_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.classes = bottoms[0][1]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        found = bottoms[0].detach().argmax(1).reshape(-1)
        labels = bottoms[1].detach().reshape(-1).long()
        counts = torch.ones_like(labels, dtype=torch.bool)
        for ignored in self.options.all("ignore_label"):
            counts &= labels != int(ignored)
        found, labels = found[counts], labels[counts]
        if (
            labels.device.type == "cpu"
            and labels.numel()
            and not 0 <= int(labels.min()) <= int(labels.max()) < self.classes
        ):
            raise self.error(f"a label is none of the {self.classes} classes, nor an ignore_label.")
        table = torch.bincount(labels * self.classes + found, minlength=self.classes**2).double()
        table = table.reshape(self.classes, self.classes)
        right, given = table.diag(), table.sum(1)
        union = given + table.sum(0) - right
        shares = (right / given.clamp(min=1)).sum() / (given > 0).sum().clamp(min=1)
        numbers = [right.sum() / given.sum().clamp(min=1), shares, (right / union.clamp(min=1)).sum() / self.classes]
        return (torch.stack(numbers).float().reshape(1, 1, 1, 3),)


class DetectionEvaluate(Layer):
    """How the detections of DetectionOutput fit the objects of AnnotatedData (Liu et al., SSD).

    The top is (1, 1, classes + detections, 5). A row per class but the background: -1, class, number of its objects,
    -1, -1. Then a row per detection, image by image, class by class, from the best score on: image, class, score, 1 if
    it is right, 1 if it is wrong. A detection is right where the object of its class that it overlaps most, by
    overlap_threshold or more, is not found yet; one of a difficult object is neither, unless evaluate_difficult_gt.
    With name_size_file boxes are compared in pixels of the images, which follow in the order of that file.
    """

    options_name = "detection_evaluate_param"
    varies = True

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        self.image = 0
        self.sizes: list[tuple[float, float]] = []
        path = self.options.get("name_size_file")
        if path:
            for number, line in enumerate(Path(path).read_text(encoding="utf-8").splitlines(), start=1):
                words = line.split()
                try:
                    self.sizes.append((float(words[-1]), float(words[-2])))
                except (IndexError, ValueError):
                    raise self.error(f"{path}:{number}: {line!r}; expected a name, a height and a width.") from None

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        device = bottoms[0].device
        found, objects = (bottom.detach().float().cpu().reshape(-1, n) for bottom, n in zip(bottoms, (7, 8)))
        objects = objects[objects[:, 0] >= 0]
        rows = []
        difficult = bool(self.options.get("evaluate_difficult_gt"))
        for label in range(int(self.options.get("num_classes"))):
            if label != self.options.get("background_label_id"):
                own = objects[objects[:, 1] == label]
                rows.append([-1.0, label, len(own) if difficult else int((own[:, 7] == 0).sum()), -1.0, -1.0])
        for image in found[:, 0].unique(sorted=True).tolist():
            here = found[found[:, 0] == image]
            there = objects[objects[:, 0] == image]
            for label in here[:, 1].unique(sorted=True).tolist():
                if label != -1:
                    rows += self._judged(here[here[:, 1] == label], there[there[:, 1] == label])
            self.image = (self.image + 1) % max(len(self.sizes), 1)
        return (torch.tensor(rows).reshape(1, 1, -1, 5).to(device),)

    def _judged(self, found: torch.Tensor, objects: torch.Tensor) -> list[list[float]]:
        """The rows of one image's detections of one class."""
        seen, rows = set(), []
        for row in found[found[:, 2].argsort(descending=True, stable=True)]:
            right, wrong = 0.0, 1.0
            if len(objects):
                shares = self._overlaps(row[3:7], objects[:, 3:7])
                best = int(shares.argmax())
                if float(shares[best]) >= self.options.get("overlap_threshold"):
                    if objects[best, 7] and not self.options.get("evaluate_difficult_gt"):
                        wrong = 0.0
                    elif best not in seen:
                        seen.add(best)
                        right, wrong = 1.0, 0.0
            rows.append([*row[:3].tolist(), right, wrong])
        return rows

    def _overlaps(self, box: torch.Tensor, objects: torch.Tensor) -> torch.Tensor:
        if not self.sizes:
            return overlaps(box, objects)
        # In pixels a box holds the row and the column of its right and lower side, too.
        sides = torch.tensor(self.sizes[self.image]).repeat(2)
        box, objects = (each.clamp(0, 1) * sides + torch.tensor([0.0, 0.0, 1.0, 1.0]) for each in (box, objects))
        return overlaps(box, objects)


class MatWrite(Layer):
    """Nothing: in DeepLab's Caffe it writes its bottom into MATLAB files."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return ()


class MIL(Layer):
    """The maximum of each column over parts of context_per_roi rows (Gkioxari et al., R*CNN)."""

    options_name = "mil_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        rows, classes = bottoms[0].shape[:2]
        count = int(self.options.get("context_per_roi"))
        parts = bottoms[0].reshape(rows // count, count, classes)
        return (parts.max(1).values.view(-1, classes, 1, 1),)
