"""The layout of the state that a TPM layer leaves in a snapshot: its blobs, their shapes, and its whole numbers.

It is that of the layer which is compiled into Caffe (docs/caffe.md). All blobs are float32:

    WEIGHT    the watched weight, shared with the watched layer; an HDF5 snapshot leaves it out
    START     the weight at the window's first sample
    PREVIOUS  the weight at the latest sample
    RESULT    (windows, kernels + 1, 3): displacement, and path in two floats, of each kernel and last of the whole
    COUNTER   (windows + 1, 8): row 0 is layout version, iteration (2 cells), forwards done in this iteration and
              iter_size; each row below is samples, start, stop and interval of a window, in 2 cells each
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

WEIGHT, START, PREVIOUS, RESULT, COUNTER = BLOBS = range(5)
LAYOUT_VERSION = 1
# A float counts exactly up to 2^24 only, so a whole number takes two cells.
PAIR_BASE = 1 << 24


def state_shapes(weight: Sequence[int], windows: int) -> list[tuple[int, ...]]:
    """The shapes of the five blobs for a watched weight of shape `weight`."""
    shape = tuple(weight)
    return [shape, shape, shape, (windows, shape[0] + 1, 3), (windows + 1, 8)]


def to_cells(value: int) -> tuple[int, int]:
    """A whole number as two cells, the low one first."""
    return value % PAIR_BASE, value // PAIR_BASE


def from_cells(cells: Any) -> int:
    """The whole number in two cells, the low one first; `cells` is an array or tensor of two."""
    return int(cells[0]) + PAIR_BASE * int(cells[1])
