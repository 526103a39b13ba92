"""What layers that give data have in common."""

from __future__ import annotations

import zlib
from collections.abc import Iterator, Sequence

import numpy as np
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape
from caffe_split.engine.rows import Rows
from caffe_split.engine.seeds import mixed_seed
from caffe_split.engine.spec.shared_batch import NotSharedError
from caffe_split.net.layers import Layer as Text


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


def seeds_of(texts: Sequence[Text], seed: int) -> Iterator[int]:
    """The seed of each layer of a net. `seed` is the net's.

    The first layer that draws records, crops or mirrors takes the net's. Each further one has its own, as in Caffe,
    by its name: two that shuffle one list would otherwise give pairs of equal records.
    """
    before = False
    for text in texts:
        draws = _draws(text)
        yield mixed_seed(seed, zlib.crc32(text.name.encode())) if draws and before else seed
        before = before or draws


def _draws(text: Text) -> bool:
    options = ("transform_param", "image_data_param", "hdf5_data_param")
    found = [message for name in options for message in text.message.subs(name)]
    asked = any(message.get(name) for message in found for name in ("crop_size", "mirror", "shuffle", "rand_skip"))
    return asked or text.type == "WindowData"
