"""SSD's prior boxes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.layertypes.records.detection import aspect_ratios


class PriorBox(Layer):
    """Boxes around each place of the first bottom, as parts of the image, the second bottom (Liu et al., SSD).

    The top is (1, 2, 4 * boxes): (left, top, right, bottom) of each box, and the four variances of each. As in SSD's
    code, fractions of min_size and max_size are cut off.
    """

    options_name = "prior_box_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        self._made: dict[tuple[Shape, Shape, torch.device], torch.Tensor] = {}

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        key = tuple(bottoms[0].shape), tuple(bottoms[1].shape), bottoms[0].device
        if key not in self._made:
            self._made[key] = self._boxes(key[0], key[1]).to(key[2])
        return (self._made[key],)

    def _boxes(self, bottom: Shape, image: Shape) -> torch.Tensor:
        """The top (1, 2, 4 * boxes) for a first bottom and an image of these shapes."""
        rows, columns = bottom[2:]
        height, width = self._pair("img_size", "img") or image[2:4]
        step_h, step_w = self._pair("step", "step") or (height / rows, width / columns)
        offset = float(self.options.get("offset"))
        x = (torch.arange(columns, dtype=torch.float64) + offset) * step_w
        y = (torch.arange(rows, dtype=torch.float64) + offset) * step_h
        sides = torch.tensor(self._sides(), dtype=torch.float64)
        corners = torch.empty((rows, columns, len(sides), 4), dtype=torch.float64)
        for index, sign in ((0, -0.5), (2, 0.5)):
            corners[..., index] = (x[None, :, None] + sign * sides[:, 0]) / width
            corners[..., index + 1] = (y[:, None, None] + sign * sides[:, 1]) / height
        if self.options.get("clip"):
            corners = corners.clamp(0, 1)
        variances = [float(value) for value in self.options.all("variance")] or [0.1]
        variances = variances * 4 if len(variances) == 1 else variances
        count = corners[..., 0].numel()
        below = torch.tensor(variances, dtype=torch.float64).repeat(count)
        return torch.stack([corners.reshape(-1), below]).float().reshape(1, 2, 4 * count)

    def _pair(self, both: str, name: str) -> tuple[float, float] | None:
        """(height, width) as written, once or for each; None where they are 0 or not written."""
        sides = [self.options.get(f"{name}_{side}") if self.options.has(f"{name}_{side}") else 0 for side in "hw"]
        if not any(sides) and self.options.has(both):
            sides = [self.options.get(both)] * 2
        return (float(sides[0]), float(sides[1])) if all(sides) else None

    def _sides(self) -> list[tuple[float, float]]:
        """(width, height) of the boxes of one place, in SSD's order."""
        most = self.options.all("max_size")
        found: list[tuple[float, float]] = []
        for index, written in enumerate(self.options.all("min_size")):
            least = int(written)
            found.append((least, least))
            if most:
                found.append((math.sqrt(least * int(most[index])),) * 2)
            for ratio in aspect_ratios(self.options):
                if abs(ratio - 1) >= 1e-6:
                    found.append((least * math.sqrt(ratio), least / math.sqrt(ratio)))
        return found
