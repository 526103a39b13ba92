"""What all readers of records have in common."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from caffe_split.data.images import Picture

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Stored:
    """An image as it is stored.

    Attributes:
        load: decodes it, (C, height, width), to an array or what `np.asarray` takes as one; any thread may call it.
            Raises `CaffeSplitError`, with the record's name.
        is_float: whether its values are float32, and not uint8.
    """

    load: Callable[[], np.ndarray | Picture]
    is_float: bool = False


# For each top of the layer, the values of some records: an array of which the first axis counts the records, or a list
# of stored images, which may have several sizes.
Records = tuple[Any, ...]


class Reader(Protocol):
    """Gives records in order, over and over. The position is counted from 0 over all rounds through the data.

    Where the order is shuffled, it depends on the seed and the number of the round alone, so that any process has the
    same order at any time.
    """

    def read(self, count: int) -> Records:
        """The next `count` records. Raises `CaffeSplitError` for records that cannot be read or do not fit."""

    def skip(self, count: int) -> None:
        """Pass over `count` records without reading them."""


def shuffled(count: int, *seeds: int) -> np.ndarray:
    """A permutation of 0 to count - 1, the same for the same seeds."""
    return np.random.default_rng(seeds).permutation(count)
