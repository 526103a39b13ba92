"""Pooling by Caffe's rules: the number of windows is rounded up, and averages count the padding as zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.kernels import pool as kernels
from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.stochastic import expected, sampled
from caffe_split.net.geometry import Window, pooled_sizes, pooling_window


class Pooling(Layer):
    """The maximum (MAX) or mean (AVE) of windows over the last two axes, or over the whole of them (global_pooling).

    STOCHASTIC draws a value of each window in TRAIN, and gives the mean of such draws in TEST.

    A second top of MAX holds the place of each maximum in its image, row times width plus column; the first of equals.
    """

    options_name = "pooling_param"
    # Set by a net that may use compiled kernels.
    by_kernels = False

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        sizes = bottoms[0][2], bottoms[0][3]
        self.window, self.size = pooling_window(self.text, sizes), pooled_sizes(self.text, sizes)
        self.is_global = bool(self.options.get("global_pooling"))
        self.draws = self.training and self.options.get("pool") == "STOCHASTIC"
        if any(p >= k for p, k in zip(self.window.pad, self.window.kernel)):
            raise self.error(f"pad {self.window.pad} is not smaller than the kernel {self.window.kernel}.")
        for length, count, stride, pad in zip(sizes, self.size, self.window.stride, self.window.pad):
            if (count - 1) * stride >= length + pad:
                raise self.error(
                    f"with a kernel of {self.window.kernel} and a stride of {self.window.stride}, its last window lies "
                    f"outside of its bottom of {sizes}; what Caffe gives there is no value."
                )

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x, kind = bottoms[0], self.options.get("pool")
        if kind == "STOCHASTIC":
            draw = sampled if self.training else expected
            return (draw(x, self.window, self.size),)
        if kind == "AVE" and self.is_global:
            return (functional.adaptive_avg_pool2d(x, 1),)
        if len(self.text.tops) > 1:
            return places(x, self.window, self.size)
        window = self.window
        if self.by_kernels and kernels.fits(x, window.kernel):
            numbers = (*window.kernel, *window.stride, *window.pad)
            return (kernels.pooled(x, numbers, (self.size[0], self.size[1]), largest=kind == "MAX"),)
        return (pooled(x, kind, self.window, self.size),)


def pooled(x: torch.Tensor, kind: str, window: Window, size: Shape) -> torch.Tensor:
    """The maximum (kind MAX) or the mean (AVE) of windows over the last two axes, of which the top has `size`."""
    x, pad = _padded(x, window, 0.0 if kind == "AVE" else -torch.inf)
    if kind == "AVE":
        y = functional.avg_pool2d(x, window.kernel, window.stride, pad, True)
    else:
        y = functional.max_pool2d(x, window.kernel, window.stride, pad, 1, True)
    return _cut(y, size)


def places(x: torch.Tensor, window: Window, size: Shape) -> tuple[torch.Tensor, torch.Tensor]:
    """The maxima, and the place of each in its image: row times width plus column."""
    width = x.shape[3]
    x, pad = _padded(x, window, -torch.inf)
    y, found = functional.max_pool2d(x, window.kernel, window.stride, pad, 1, True, return_indices=True)
    if pad != window.pad:
        rows, columns = found // x.shape[3] - window.pad[0], found % x.shape[3] - window.pad[1]
        found = rows * width + columns
    return _cut(y, size), _cut(found, size).to(y.dtype)


def _padded(x: torch.Tensor, window: Window, value: float) -> tuple[torch.Tensor, Shape]:
    """(x, the padding for PyTorch to add). More than half a kernel, which PyTorch refuses, is added to x here."""
    pad = window.pad
    if all(2 * p <= k for p, k in zip(pad, window.kernel)):
        return x, pad
    return functional.pad(x, (pad[1], pad[1], pad[0], pad[0]), value=value), (0, 0)


def _cut(y: torch.Tensor, size: Shape) -> torch.Tensor:
    """The top without the windows that Caffe does not have."""
    return y if tuple(y.shape[2:]) == size else y[:, :, : size[0], : size[1]]
