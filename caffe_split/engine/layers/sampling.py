"""Layers of forks that read images between their pixels."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.layertypes.records.sampling import THETA


def between(x: torch.Tensor, rows: torch.Tensor, columns: torch.Tensor, *, beyond: bool) -> torch.Tensor:
    """Values of images (N, C, H, W) at places (N, ...) that need not be whole, bilinear; (N, C, ...).

    beyond: pixels outside of an image count as 0, as if it went on in all directions. Else the last row and column
    reach up to H and W, and places outside of that are 0. So are places that are no numbers.
    """
    height, width = x.shape[2:]
    # A place that is no number lies outside of every image.
    known = rows.isfinite() & columns.isfinite()
    rows, columns = torch.where(known, rows, -2.0), torch.where(known, columns, -2.0)
    top, left = rows.detach().floor(), columns.detach().floor()
    down, right = rows - top, columns - left
    flat = x.flatten(2)
    out = x.new_zeros(())
    for row, by_row in ((top, 1 - down), (top + 1, down)):
        for column, by_column in ((left, 1 - right), (left + 1, right)):
            weight = by_row * by_column
            if beyond:
                weight = weight * ((row >= 0) & (row < height) & (column >= 0) & (column < width))
            place = row.clamp(0, height - 1) * width + column.clamp(0, width - 1)
            index = place.long().flatten(1)[:, None].expand(-1, x.shape[1], -1)
            out = out + flat.gather(2, index).view(*x.shape[:2], *rows.shape[1:]) * weight[:, None]
    if beyond:
        return out
    inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
    return torch.where(inside[:, None], out, 0.0)


class SpatialTransformer(Layer):
    """Images under affine transformations (Jaderberg et al.), bilinear, as the published layer has it.

    A place of the top is (2 i / output_H - 1, 2 j / output_W - 1), row before column; theta, two rows of three, maps
    it to a place of the image, on the same scale by H and W. Pixels outside of the image are 0.
    """

    options_name = "st_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.size = tuple(self.inferred(bottoms).tops[0][2:])
        self.written = [float(self.options.get(name)) if self.options.has(name) else None for name in THETA]

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, given = bottoms[0], bottoms[1].reshape(len(bottoms[1]), -1)
        if not self.options.get("to_compute_dU"):
            x = x.detach()
        parts = iter(given.unbind(1))
        theta = [next(parts) if value is None else given.new_full((len(x),), value) for value in self.written]
        height, width = self.size
        down = (torch.arange(height, device=x.device, dtype=x.dtype) / height * 2 - 1).view(1, -1, 1)
        right = (torch.arange(width, device=x.device, dtype=x.dtype) / width * 2 - 1).view(1, 1, -1)
        places = []
        for row, side in ((0, x.shape[2]), (3, x.shape[3])):
            a, b, c = (part.view(-1, 1, 1) for part in theta[row : row + 3])
            places.append((a * down + b * right + c + 1) / 2 * side)
        return (between(x, places[0], places[1], beyond=True),)


class FlowWarp(Layer):
    """The first bottom read where the flow, the second, points to: to the right, and down, in pixels (FlowNet 2).

    Places outside of the image are 0, or NaN with fill_value NOT_A_NUMBER.
    """

    options_name = "flow_warp_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, flow = bottoms
        height, width = x.shape[2:]
        columns = flow[:, 0] + torch.arange(width, device=x.device, dtype=x.dtype)
        rows = flow[:, 1] + torch.arange(height, device=x.device, dtype=x.dtype)[:, None]
        top = between(x, rows, columns, beyond=False)
        if self.options.get("fill_value") == "NOT_A_NUMBER":
            inside = (rows >= 0) & (rows < height) & (columns >= 0) & (columns < width)
            top = torch.where(inside[:, None], top, torch.nan)
        return (top,)
