"""Pooling by Caffe's rules: the number of windows is rounded up, and averages count the padding as zeros."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.net.geometry import pooled_sizes, pooling_window


class Pooling(Layer):
    """The maximum (MAX) or mean (AVE) of windows over the last two axes, or over the whole of them (global_pooling).

    A second top of MAX holds the place of each maximum in its image, row times width plus column; the first of equals.
    """

    options_name = "pooling_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.inferred(bottoms)
        sizes = bottoms[0][2], bottoms[0][3]
        window, self.size = pooling_window(self.text, sizes), pooled_sizes(self.text, sizes)
        self.kernel, self.stride, self.pad = window.kernel, window.stride, window.pad
        self.is_global = bool(self.options.get("global_pooling"))
        if any(p >= k for p, k in zip(self.pad, self.kernel)):
            raise self.error(f"pad {self.pad} is not smaller than the kernel {self.kernel}.")
        for length, count, stride, pad in zip(sizes, self.size, self.stride, self.pad):
            if (count - 1) * stride >= length + pad:
                raise self.error(
                    f"with a kernel of {self.kernel} and a stride of {self.stride}, its last window lies outside of "
                    f"its bottom of {sizes}; what Caffe gives there is no value."
                )

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        if self.options.get("pool") == "AVE":
            if self.is_global:
                return (functional.adaptive_avg_pool2d(x, 1),)
            x, pad = self._padded(x, 0.0)
            return (self._cut(functional.avg_pool2d(x, self.kernel, self.stride, pad, True)),)
        width = x.shape[3]
        x, pad = self._padded(x, -torch.inf)
        if len(self.text.tops) == 1:
            return (self._cut(functional.max_pool2d(x, self.kernel, self.stride, pad, 1, True)),)
        y, places = functional.max_pool2d(x, self.kernel, self.stride, pad, 1, True, return_indices=True)
        if pad != self.pad:
            rows, columns = places // x.shape[3] - self.pad[0], places % x.shape[3] - self.pad[1]
            places = rows * width + columns
        return self._cut(y), self._cut(places).to(y.dtype)

    def _cut(self, y: torch.Tensor) -> torch.Tensor:
        """The top without the windows that Caffe does not have."""
        return y if tuple(y.shape[2:]) == self.size else y[:, :, : self.size[0], : self.size[1]]

    def _padded(self, x: torch.Tensor, value: float) -> tuple[torch.Tensor, Shape]:
        """(x, the padding for PyTorch to add). More than half a kernel, which PyTorch refuses, is added to x here."""
        if all(2 * p <= k for p, k in zip(self.pad, self.kernel)):
            return x, self.pad
        return functional.pad(x, (self.pad[1], self.pad[1], self.pad[0], self.pad[0]), value=value), (0, 0)
