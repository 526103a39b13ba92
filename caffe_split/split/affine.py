"""BatchNorm and Scale layers in the TEST phase: a factor and a shift per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.net.layers import Layer
from caffe_split.split.algebra import Array, Kernels


class CannotFoldError(Exception):
    """Why layers cannot be merged into one convolution; the text is for the user."""


@dataclass(frozen=True)
class Affine:
    """y = factor * x + shift, both float64 [channels]."""

    factor: Array
    shift: Array

    def after(self, kernels: Kernels) -> Kernels:
        """The convolution whose outputs are those of `kernels` with this applied."""
        bias = 0.0 if kernels.bias is None else kernels.bias
        return Kernels(kernels.weight * self.factor[:, None, None, None], self.factor * bias + self.shift)

    @property
    def absolute(self) -> Affine:
        """The same with the absolute values of all numbers."""
        return Affine(np.abs(self.factor), np.abs(self.shift))


def affine(layer: Layer, blobs: Sequence[np.ndarray], channels: int) -> Affine:
    """What a BatchNorm or Scale layer does in the TEST phase. Raises `CannotFoldError` where it is more than that."""
    arrays = [np.asarray(blob, dtype=np.float64).reshape(-1) for blob in blobs]
    found = batch_norm(layer, arrays) if layer.type == "BatchNorm" else _scale(layer, arrays)
    if len(found.factor) != channels or len(found.shift) != channels:
        raise CannotFoldError(f"{layer.where} has {len(found.factor)} channels where {channels} arrive")
    return found


def batch_norm(layer: Layer, blobs: Sequence[Array]) -> Affine:
    """(x - mean) / sqrt(variance + eps). The blobs are sums of means and of variances, and the weight of these sums."""
    param = layer.message.sub("batch_norm_param")
    if param is not None and param.get("use_global_stats", True) is False:
        raise CannotFoldError(f"{layer.where} uses each batch's own statistics in the TEST phase too")
    if len(blobs) != 3 or blobs[2].size != 1:
        raise CannotFoldError(f"{layer.where} has {len(blobs)} blobs; Caffe's own BatchNorm has 3")
    weight = float(blobs[2][0])
    scale = 1.0 / weight if weight else 0.0
    factor = 1.0 / np.sqrt(blobs[1] * scale + (float(param.get("eps", 1e-5)) if param else 1e-5))
    return Affine(factor, -blobs[0] * scale * factor)


def _scale(layer: Layer, blobs: Sequence[Array]) -> Affine:
    param = layer.message.sub("scale_param")
    axis, axes = (int(param.get("axis", 1)), int(param.get("num_axes", 1))) if param else (1, 1)
    if len(layer.bottoms) != 1 or axis not in (1, -3) or axes != 1:
        raise CannotFoldError(f"{layer.where} is not one number per channel (axis {axis}, num_axes {axes})")
    if not blobs:
        raise CannotFoldError(f"there are no weights of {layer.where}")
    return Affine(blobs[0], blobs[1] if len(blobs) > 1 else np.zeros(len(blobs[0])))
