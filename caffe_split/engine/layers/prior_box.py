"""SSD's prior boxes."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.layertypes.prior_boxes import prior_boxes


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
            self._made[key] = torch.from_numpy(prior_boxes(self.options, key[0][2:], key[1][2:4])).to(key[2])
        return (self._made[key],)
