"""FlowNet's layers that resize images: each side by a matrix of weights, made once for the sizes."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops


class Resample(Layer):
    """Images of another size, NEAREST, LINEAR or CUBIC; with antialias, windows grow where images become smaller.

    The place of a column j in the bottom is j fx + fy / 2 - 0.5, that of a row i is i fy + fx / 2 - 0.5, where fx and
    fy are the bottom's sides divided by the top's: FlowNet's code has the halves so.
    """

    options_name = "resample_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        old, new = bottoms[0][2:], self.inferred(bottoms).tops[0][2:]
        # In float32, on which the rounding of places depends.
        factors = [np.float32(a) / np.float32(b) for a, b in zip(old, new)]
        smaller = any(factor > 1 for factor in factors) and bool(self.options.get("antialias"))
        kind = str(self.options.get("type"))
        places = [
            np.arange(count, dtype=np.float32) * factor + other / np.float32(2) - np.float32(0.5)
            for count, factor, other in zip(new, factors, reversed(factors))
        ]
        if kind == "NEAREST":
            self.buffers = [torch.from_numpy(_rounded(place).clip(0, n - 1)) for place, n in zip(places, old)]
            return
        curve, reach = (_cubic, 4) if kind == "CUBIC" else (_triangle, 2)
        self.buffers = []
        for place, factor, length in zip(places, factors, old):
            narrow = 1 / factor if smaller else np.float32(1)
            around = 2 if factor < 1 else math.ceil(np.float32(reach) / narrow)
            away = place[:, None] - np.arange(length, dtype=np.float32)
            near = abs(_rounded(place)[:, None] - np.arange(length)) <= around
            weights = np.where(near, curve(narrow * away), 0)
            total = weights.sum(1, keepdims=True)
            self.buffers.append(torch.from_numpy(weights / np.where(total == 0, 1, total)).float())

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, (by_row, by_column) = bottoms[0], self.buffers
        if not by_row.is_floating_point():
            return (x[:, :, by_row][..., by_column],)
        return (by_row.to(x) @ x @ by_column.to(x).t(),)


def _rounded(places: np.ndarray) -> np.ndarray:
    """The nearest whole numbers, halves away from 0, as C's `round` has it."""
    return np.asarray(np.sign(places) * np.floor(abs(places) + 0.5), np.int64)


def _triangle(x: np.ndarray) -> np.ndarray:
    return np.asarray(np.maximum(0, 1 - abs(x)))


def _cubic(x: np.ndarray) -> np.ndarray:
    """Keys' cubic curve with the parameter -0.5."""
    x = abs(x)
    inner, outer = x * x * (1.5 * x - 2.5) + 1, x * (x * (-0.5 * x + 2.5) - 4) + 2
    return np.where(x <= 1, inner, np.where(x < 2, outer, 0))


class Downsample(Layer):
    """Images of another size whose corners stay: means around each place, weighted by a triangle as wide as a step.

    Values that are not numbers do not count; where they are more than half as heavy as the others, neither is the top.
    """

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.buffers = []
        for old, new in zip(bottoms[0][2:], self.inferred(bottoms).tops[0][2:]):
            if min(old, new) < 2:
                raise self.error(f"a side of {old} becomes {new}; both are 2 or more, since corners stay in corners.")
            step = (old - 1) / (new - 1)
            places = np.arange(new) * step
            near = abs(_rounded(places.astype(np.float32))[:, None] - np.arange(old)) <= math.ceil(step)
            weights = _triangle((places[:, None] - np.arange(old)) / step)
            self.buffers.append(torch.from_numpy(np.where(near, weights, 0)).float())

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        by_row, by_column = (weights.to(x) for weights in self.buffers)
        lost = x.isnan()
        total = by_row @ torch.where(lost, 0.0, x) @ by_column.t()
        weight = by_row @ (~lost).to(x.dtype) @ by_column.t()
        nothing = by_row @ lost.to(x.dtype) @ by_column.t()
        return (torch.where(nothing > 0.5 * weight, torch.nan, total / weight),)
