"""Pooling by Caffe's rules: windows rounded up, padding counted in averages."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional as F

from caffe_split.engine.layers.base import Layer, Shape, Tops


class Pooling(Layer):
    options_name = "pooling_param"

    def setup(self, bottoms: Sequence[Shape]) -> None:
        shape = bottoms[0]
        if len(shape) != 4:
            raise self.error(f"a bottom of shape {shape}; expected (N, C, height, width).")
        size = (shape[2], shape[3])
        self.is_global = bool(self.options.get("global_pooling"))
        if self.is_global:
            self.kernel, self.stride, self.pad = size, (1, 1), (0, 0)
        else:
            self.kernel, self.stride, self.pad = self._pair("kernel", 0), self._pair("stride", 1), self._pair("pad", 0)
            if min(self.kernel) < 1:
                raise self.error("kernel_size, or kernel_h and kernel_w, are missing or 0.")
        if any(p >= k for p, k in zip(self.pad, self.kernel)):
            raise self.error(f"pad {self.pad} is not smaller than the kernel {self.kernel}.")
        if any(k > n + 2 * p for k, n, p in zip(self.kernel, size, self.pad)):
            raise self.error(f"its kernel {self.kernel} does not fit into {size[0]}x{size[1]}.")
        self.size = tuple(
            self._windows(n, k, s, p) for n, k, s, p in zip(size, self.kernel, self.stride, self.pad)
        )

    def _pair(self, what: str, default: int) -> tuple[int, int]:
        both = "kernel_size" if what == "kernel" else what
        if self.options.has(both):
            value = int(self.options.get(both))
            return value, value
        return tuple(  # type: ignore[return-value]
            int(self.options.get(f"{what}_{letter}")) if self.options.has(f"{what}_{letter}") else default
            for letter in "hw"
        )

    def _windows(self, length: int, kernel: int, stride: int, pad: int) -> int:
        room = length + 2 * pad - kernel
        count = (room if self.options.get("round_mode") == "FLOOR" else room + stride - 1) // stride + 1
        # The last window has to begin within the image or the padding before it.
        if pad and (count - 1) * stride >= length + pad:
            count -= 1
        if (count - 1) * stride >= length + pad:
            raise self.error(
                f"with a kernel of {kernel} and a stride of {stride}, its last window lies outside of its bottom of "
                f"{length}; what Caffe gives there is no value."
            )
        return count

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

    def _padded(self, x: torch.Tensor, value: float) -> tuple[torch.Tensor, tuple[int, int]]:
        """The bottom and the padding left to PyTorch, which takes none of more than half a kernel."""
        if all(2 * p <= k for p, k in zip(self.pad, self.kernel)):
            return x, self.pad
        return F.pad(x, (self.pad[1], self.pad[1], self.pad[0], self.pad[0]), value=value), (0, 0)
