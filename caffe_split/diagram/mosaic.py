"""A layer's kernels laid out as one image: tiles in a grid, thin gaps between them."""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Array = npt.NDArray[np.float64]

# With more tiles than this the channels of a kernel are drawn as their norm, unless asked otherwise.
MOST_TILES = 1024


MosaicKind = Literal["weights", "colour", "norm", "matrix"]


@dataclass(frozen=True)
class Mosaic:
    """One layer's kernels as a picture.

    `image` is [rows, columns] of weights or norms, or [rows, columns, 3] of weights to be shown as colours, with NaN
    between the tiles. `kernels` is their number, `note` says what is shown, `columns` how many tiles stand side by
    side, and `pitch` is the distance from one tile to the next in pixels (rows, columns).
    """

    layer: str
    kind: MosaicKind
    kernels: int
    note: str
    image: Array
    columns: int
    pitch: tuple[int, int]


def kernel_mosaic(layer: str, weight: npt.ArrayLike, channels: str = "auto", columns: int | None = None) -> Mosaic:
    """The picture of a weight [kernels, channels, height, width], or [outputs, inputs].

    Of other convolutions, 1-D kernels have a height of 1, and the axes behind the third are one.
    1x1 kernels and inner products are a matrix, one row per kernel. Kernels over 3 channels are coloured tiles, those
    over 1 plain ones, one per kernel, `columns` in a row. For other kernels `channels` says what is drawn: 'all', one
    row per kernel and one tile per channel; 'norm', one tile per kernel with the norm over its channels; 'auto', 'all'
    up to MOST_TILES tiles, else 'norm'. 'all' and 'norm' hold for 3 channels, too.
    """
    array = np.asarray(weight, dtype=np.float64)
    depth, *spatial = array.shape[1:] or (1,)
    array = array.reshape(array.shape[0], depth, *(1,) * (2 - len(spatial)), *spatial)
    if array.ndim > 4:
        array = array.reshape(*array.shape[:3], -1)
    count, depth, height, width = array.shape
    note = f"{count} kernels of {depth}x{height}x{width}"
    across = columns or math.ceil(math.sqrt(count))
    if height == width == 1:
        return Mosaic(layer, "matrix", count, f"{count}x{depth} matrix", array[:, :, 0, 0], 1, (1, 1))
    pitch = height + 1, width + 1
    if depth == 3 and channels == "auto":
        return Mosaic(layer, "colour", count, note, _grid(np.moveaxis(array, 1, -1), across), across, pitch)
    if depth == 1 and channels != "norm":
        return Mosaic(layer, "weights", count, note, _grid(array[:, 0], across), across, pitch)
    if channels == "norm" or (channels == "auto" and count * depth > MOST_TILES):
        norms = np.sqrt((array**2).sum(axis=1))
        return Mosaic(layer, "norm", count, f"{note}, norm over channels", _grid(norms, across), across, pitch)
    tiles = array.reshape(count * depth, height, width)
    return Mosaic(
        layer, "weights", count, f"{note}, a row a kernel, a column a channel", _grid(tiles, depth), depth, pitch
    )


def _grid(tiles: Array, columns: int) -> Array:
    """[tiles, height, width(, 3)] side by side, `columns` in a row, one NaN between two."""
    count, height, width = tiles.shape[:3]
    rows = math.ceil(count / columns)
    image = np.full((rows * (height + 1) - 1, columns * (width + 1) - 1, *tiles.shape[3:]), np.nan)
    for index, tile in enumerate(tiles):
        y, x = (index // columns) * (height + 1), (index % columns) * (width + 1)
        image[y : y + height, x : x + width] = tile
    return image


def largest(mosaics: Sequence[Mosaic], kinds: Collection[MosaicKind]) -> float:
    """The largest absolute value in the mosaics of these kinds; 1 where there is none but zero."""
    values = [float(np.nanmax(np.abs(m.image), initial=0.0)) for m in mosaics if m.kind in kinds]
    return max(values, default=0.0) or 1.0
