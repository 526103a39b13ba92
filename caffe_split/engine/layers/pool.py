"""Pooling by Caffe's rules: windows rounded up, padding counted in averages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.net.geometry import pooled_sizes, pooling_window


class Pooling(Layer):
    options_name = "pooling_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.told(bottoms)
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

    def run(self, *bottoms: torch.Tensor) -> Tops:
        x = bottoms[0]
        if self.options.get("pool") == "AVE":
            if self.is_global:
                return (F.adaptive_avg_pool2d(x, 1),)
            x, pad = self._padded(x, 0.0)
            return (self._cut(F.avg_pool2d(x, self.kernel, self.stride, pad, True)),)
        x, pad = self._padded(x, -torch.inf)
        return (self._cut(F.max_pool2d(x, self.kernel, self.stride, pad, 1, True)),)

    def _cut(self, y: torch.Tensor) -> torch.Tensor:
        """The windows that Caffe has too."""
        return y if tuple(y.shape[2:]) == self.size else y[:, :, : self.size[0], : self.size[1]]

    def _padded(self, x: torch.Tensor, value: float) -> tuple[torch.Tensor, Shape]:
        """The bottom and the padding left to PyTorch, which takes none of more than half a kernel."""
        if all(2 * p <= k for p, k in zip(self.pad, self.kernel)):
            return x, self.pad
        return F.pad(x, (self.pad[1], self.pad[1], self.pad[0], self.pad[0]), value=value), (0, 0)
