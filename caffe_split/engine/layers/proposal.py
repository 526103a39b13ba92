"""Regions that may hold objects (Ren et al., Faster R-CNN)."""

from __future__ import annotations

import ast
import math
from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Tops
from caffe_split.engine.layers.detection import overlaps


@dataclass
class Proposer:
    """Proposes regions; the numbers are those of the published settings for tests.

    Attributes:
        stride: the pixels of the image per place of the scores.
        base: the side of the anchors' square before ratios and scales.
        ratios: of height to width.
        scales: of the sides.
        before: how many of the best boxes are compared with each other; 0 for all.
        after: how many regions are given at most; 0 for all.
        overlap: of two boxes that overlap more, only the better one is kept.
        least: the least side of a region, in pixels of the image before it was scaled.
        early: small regions are left out before they are cut at the image's borders, which are its width and height;
            a box is left out where it overlaps as much as `overlap`, too; and anchors are cut to whole pixels, towards
            0. So has it the layer RPN.
    """

    stride: int = 16
    base: int = 16
    ratios: Sequence[float] = (0.5, 1, 2)
    scales: Sequence[float] = (8, 16, 32)
    before: int = 6000
    after: int = 300
    overlap: float = 0.7
    least: float = 16
    early: bool = False
    anchors: torch.Tensor = field(init=False)

    def __post_init__(self) -> None:
        """Make the anchors (count, 4): left, top, right, bottom in pixels, around the first place."""
        middle, rows = (self.base - 1) / 2, []
        for ratio in self.ratios:
            # Halves up: where the published Python code has others, the two agree.
            width = math.floor((self.base**2 / ratio) ** 0.5 + 0.5)
            height = math.floor(width * ratio + 0.5)
            for scale in self.scales:
                half = (width * scale - 1) / 2, (height * scale - 1) / 2
                rows.append([middle - half[0], middle - half[1], middle + half[0], middle + half[1]])
        self.anchors = torch.tensor(rows).trunc() if self.early else torch.tensor(rows)

    def regions(
        self, scores: torch.Tensor, moves: torch.Tensor, size: tuple[float, float], scale: tuple[float, float]
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """(regions, scores), (n, 5) and (n, 1), of one image; the first number of a region is the image, 0.

        Args:
            scores: (1, 2 * anchors, height, width); the second half says how likely there is an object.
            moves: (1, 4 * anchors, height, width): x, y, width and height relative to those of the anchor.
            size: height and width of the image in pixels.
            scale: by which height and width of the original image were multiplied.
        """
        count, (height, width) = len(self.anchors), scores.shape[2:]
        if (*scores.shape[:2], moves.shape[1]) != (1, 2 * count, 4 * count):
            raise ValueError(
                f"scores of {tuple(scores.shape)} and boxes of {tuple(moves.shape)} for {count} anchors; expected one "
                f"image, {2 * count} and {4 * count} channels"
            )
        # Rows in the order of the published code, by place and then by anchor, which settles equal scores.
        likely = scores[0, count:].permute(1, 2, 0).reshape(-1)
        moves = moves[0].permute(1, 2, 0).reshape(-1, 4)
        y, x = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
        shift = torch.stack([x, y, x, y], -1).reshape(-1, 1, 4) * self.stride
        boxes = self._moved((self.anchors + shift).reshape(-1, 4), moves)
        limit = torch.tensor([size[1], size[0]] * 2) - (0 if self.early else 1)
        cut = torch.minimum(boxes.clamp(min=0), limit.clamp(min=0))
        sides = boxes[:, 2:] - boxes[:, :2] if self.early else cut[:, 2:] - cut[:, :2] + 1
        boxes = cut
        large = (sides[:, 0] >= self.least * scale[1]) & (sides[:, 1] >= self.least * scale[0])
        boxes, likely = boxes[large], likely[large]
        order = likely.argsort(descending=True, stable=True)[: self.before or None]
        boxes, likely = boxes[order], likely[order]
        kept = self._suppressed(boxes)
        found = torch.cat([torch.zeros(len(kept), 1), boxes[kept]], 1)
        return found, likely[kept, None]

    @staticmethod
    def _moved(anchors: torch.Tensor, moves: torch.Tensor) -> torch.Tensor:
        sides = anchors[:, 2:] - anchors[:, :2] + 1
        middle = anchors[:, :2] + sides / 2 + moves[:, :2] * sides
        half = moves[:, 2:].exp() * sides / 2
        return torch.cat([middle - half, middle + half], 1)

    def _suppressed(self, boxes: torch.Tensor) -> list[int]:
        """Indices of the boxes that are kept, the best first. A box holds its right column and lower row, too."""
        whole = boxes + torch.tensor([0.0, 0.0, 1.0, 1.0])
        left, kept = torch.ones(len(boxes), dtype=torch.bool), []
        for index in range(len(boxes)):
            if left[index]:
                kept.append(index)
                if len(kept) == self.after:
                    break
                shared = overlaps(whole[index], whole[index + 1 :])
                left[index + 1 :] &= (shared < self.overlap) if self.early else (shared <= self.overlap)
        return kept


class Proposal(Layer):
    """The regions of a `Proposer` from scores, boxes, and the image's height, width and scale; then their scores."""

    options_name = "proposal_param"
    varies = True
    # What forks call the base size, the count before the suppression, and the least size; see `Proposer` for `early`.
    names = ("base_size", "pre_nms_topn", "min_size")
    early = False

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        scores, moves, image = (bottom.detach().float().cpu() for bottom in bottoms)
        options = self.options
        base, before, least = (options.get(name) for name in self.names)
        proposer = Proposer(
            stride=int(options.get("feat_stride")),
            base=int(base),
            ratios=options.all("ratio"),
            scales=options.all("scale"),
            before=int(before),
            after=int(options.get("post_nms_topn")),
            overlap=float(options.get("nms_thresh")),
            least=float(least),
            early=self.early,
        )
        height, width, *scale = image.reshape(-1).tolist()
        found = proposer.regions(scores, moves, (height, width), self.scales(scale))
        return tuple(self.shaped(top).to(bottoms[0].device) for top in found[: len(self.text.tops)])

    def scales(self, given: Sequence[float]) -> tuple[float, float]:
        """The image's scale, vertical and horizontal, from the numbers after its height and width."""
        return given[0], given[1] if len(given) > 1 else given[0]

    def shaped(self, top: torch.Tensor) -> torch.Tensor:
        """A top as the layer gives it."""
        return top


class RPN(Proposal):
    """A Proposal under other names of its fields, whose small regions are left out before they are cut.

    Its image has one scale, and its tops four axes.
    """

    options_name = "rpn_param"
    names = ("basesize", "per_nms_topn", "boxminsize")
    early = True

    @override
    def scales(self, given: Sequence[float]) -> tuple[float, float]:
        return given[0], given[0]

    @override
    def shaped(self, top: torch.Tensor) -> torch.Tensor:
        return top.view(*top.shape, 1, 1)


class ProposalLayer:
    """The Python layer of Faster R-CNN, with its published settings: module rpn.proposal_layer, ProposalLayer."""

    def __init__(self, param_str: str, phase: str) -> None:
        # A text of YAML in one line, such as "'feat_stride': 16".
        text = param_str.strip()
        given = ast.literal_eval(text if text.startswith("{") else f"{{{text}}}") if text else {}
        before, after = (12000, 2000) if phase == "TRAIN" else (6000, 300)
        scales = tuple(given.get("scales", (8, 16, 32)))
        self.proposer = Proposer(int(given.get("feat_stride", 16)), scales=scales, before=before, after=after)

    def __call__(self, scores: torch.Tensor, moves: torch.Tensor, image: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """The regions, from scores, boxes, and the image's height, width and scale."""
        height, width, scale = image.detach().float().cpu().reshape(-1).tolist()
        return self.proposer.regions(scores.detach().cpu(), moves.detach().cpu(), (height, width), (scale, scale))[:1]
