"""Pooling over regions of images: Fast R-CNN's and R-FCN's. Sides are computed in float32, on which floors depend."""

from __future__ import annotations

import math

import numpy as np
import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Tops

Region = tuple[int, float, float, float, float]


def _half_up(value: float) -> int:
    """The nearest whole number, as C's `round` has it: halves away from 0."""
    return int(math.copysign(math.floor(abs(value) + 0.5), value))


class _Regions(Layer):
    """A layer over images (N, C, H, W) and regions (R, 5): image, left, top, right, bottom."""

    def regions(self, x: torch.Tensor, bottom: torch.Tensor) -> list[Region]:
        """The regions as numbers. Raises `CaffeSplitError` for one of an image that is not there."""
        found = []
        for image, *sides in bottom.detach().reshape(-1, 5).tolist():
            if not 0 <= int(image) < x.shape[0]:
                raise self.error(
                    f"a region of '{self.text.bottoms[1]}' lies in image {image:g}; there are {x.shape[0]}."
                )
            found.append((int(image), sides[0], sides[1], sides[2], sides[3]))
        return found


class ROIPooling(_Regions):
    """The maximum of each of pooled_h x pooled_w parts of a region (Girshick, Fast R-CNN); 0 of empty parts.

    The corners of regions are multiplied by spatial_scale and rounded.
    """

    options_name = "roi_pooling_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        pooled = int(self.options.get("pooled_h")), int(self.options.get("pooled_w"))
        scale = np.float32(self.options.get("spatial_scale"))
        tops = []
        for image, *sides in self.regions(x, bottoms[1]):
            left, top, right, bottom = (_half_up(float(np.float32(side) * scale)) for side in sides)
            rows = _parts(top, bottom, pooled[0], x.shape[2])
            columns = _parts(left, right, pooled[1], x.shape[3])
            tops.append(torch.stack([_largest(x[image], row, column) for row in rows for column in columns], -1))
        out = torch.stack(tops) if tops else x.new_zeros((0, x.shape[1], pooled[0] * pooled[1]))
        return (out.view(-1, x.shape[1], *pooled),)


def _parts(first: int, last: int, count: int, length: int) -> list[tuple[int, int]]:
    """(start, stop) of the parts of a region's side, cut at the image's end; they overlap where it does not divide."""
    size = np.float32(max(last - first + 1, 1)) / np.float32(count)
    marks = [np.float32(part) * size for part in range(count + 1)]
    ends = ((math.floor(a) + first, math.ceil(b) + first) for a, b in zip(marks, marks[1:]))
    return [(min(max(start, 0), length), min(max(stop, 0), length)) for start, stop in ends]


def _largest(x: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> torch.Tensor:
    """The maximum of each channel (C,) over a part of an image (C, H, W)."""
    part = x[:, rows[0] : rows[1], columns[0] : columns[1]].flatten(1)
    return part.max(1).values if part.shape[1] else x.new_zeros(x.shape[0])


class PSROIPooling(_Regions):
    """The mean of each of group_size^2 parts of a region, each part from channels of its own (Dai et al., R-FCN).

    The corners of regions are rounded and then multiplied by spatial_scale. The bottom's channels are output_dim blocks
    of group_size x group_size.
    """

    options_name = "psroi_pooling_param"

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        count, group = int(self.options.get("output_dim")), int(self.options.get("group_size"))
        scale = np.float32(self.options.get("spatial_scale"))
        blocks = x.reshape(x.shape[0], count, group, group, *x.shape[2:])
        tops = []
        for image, *sides in self.regions(x, bottoms[1]):
            left, top = (np.float32(_half_up(side)) * scale for side in sides[:2])
            right, bottom = (np.float32(_half_up(side) + 1) * scale for side in sides[2:])
            rows = _shares(top, bottom, group, x.shape[2])
            columns = _shares(left, right, group, x.shape[3])
            tops.append(
                torch.stack(
                    [
                        _mean(blocks[image, :, row, column], rows[row], columns[column])
                        for row in range(group)
                        for column in range(group)
                    ],
                    -1,
                )
            )
        out = torch.stack(tops) if tops else x.new_zeros((0, count, group * group))
        return (out.view(-1, count, group, group),)


def _shares(first: np.float32, last: np.float32, count: int, length: int) -> list[tuple[int, int]]:
    """(start, stop) of the parts of a region's side that is not whole, cut at the image's ends."""
    size = max(last - first, np.float32(0.1)) / np.float32(count)
    marks = [np.float32(part) * size + first for part in range(count + 1)]
    ends = ((math.floor(a), math.ceil(b)) for a, b in zip(marks, marks[1:]))
    return [(min(max(start, 0), length), min(max(stop, 0), length)) for start, stop in ends]


def _mean(x: torch.Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> torch.Tensor:
    """The mean of each channel (C,) over a part of an image (C, H, W); 0 of an empty one."""
    part = x[:, rows[0] : rows[1], columns[0] : columns[1]].flatten(1)
    return part.mean(1) if part.shape[1] else x.new_zeros(x.shape[0])
