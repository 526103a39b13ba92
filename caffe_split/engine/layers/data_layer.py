"""What layers that give data have in common."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape
from caffe_split.engine.rows import Rows
from caffe_split.engine.spec.shared_batch import NotSharedError


class DataLayer(Layer):
    """A layer without bottoms that gives batches; each process takes its rows of them."""

    top_shapes: list[Shape]

    def go_to(self, number: int) -> None:
        """Make the next batch number `number`, counted from 0. Only before the first batch."""

    def labels(self, top: str) -> np.ndarray | None:
        """All values of `top`, one per record; None if they are not known in advance."""
        return None

    def rows(self, batch: int) -> Rows:
        """This process's part of a batch of `batch` records. Raises `CaffeSplitError` if it does not divide."""
        try:
            return self.place.group.rows(batch)
        except NotSharedError as error:
            raise NotSharedError(str(self.error(str(error)))) from None

    @override
    def shapes(self, bottoms: Sequence[Shape]) -> list[Shape]:
        return self.top_shapes
