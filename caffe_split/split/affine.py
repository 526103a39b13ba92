"""BatchNorm and Scale layers in the TEST phase: a factor and a shift per channel."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.net import norm_forks
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options
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
    """What a BatchNorm, BN or Scale layer does in the TEST phase. Raises `CannotFoldError` where that is more."""
    arrays = [np.asarray(blob, dtype=np.float64).reshape(-1) for blob in blobs]
    found = {"BatchNorm": batch_norm, "BN": _bn, "Scale": _scale}[layer.type](layer, arrays)
    if len(found.factor) != channels or len(found.shift) != channels:
        raise CannotFoldError(f"{layer.where} has {len(found.factor)} channels where {channels} arrive")
    return found


def batch_norm(layer: Layer, blobs: Sequence[Array]) -> Affine:
    """(x - mean) / sqrt(variance + eps). The blobs are sums of means and of variances, and the weight of these sums.

    In forks a factor and a shift follow; then a weight of 0 says that the statistics are means.
    """
    param = Options.of(layer.message, "batch_norm_param")
    if param.has("use_global_stats") and not param.get("use_global_stats"):
        raise CannotFoldError(f"{layer.where} uses each batch's own statistics in the TEST phase too")
    if not param.has("use_global_stats"):
        _refuse_training(layer)
    inside = norm_forks.scale_inside(layer)
    if len(blobs) != (5 if inside else 3) or blobs[2].size != 1:
        whose = "one with its scale inside has 5" if inside else "Caffe's own BatchNorm has 3"
        raise CannotFoldError(f"{layer.where} has {len(blobs)} blobs; {whose}")
    weight = float(blobs[2][0])
    scale = 1.0 / weight if weight else float(inside)
    eps = float(param.get("eps"))
    if norm_forks.is_nvcaffes(layer):
        eps = max(eps, 1e-5)
    plain = _normalised(blobs[0] * scale, blobs[1] * scale, eps)
    return Affine(plain.factor * blobs[3], plain.shift * blobs[3] + blobs[4]) if inside else plain


def _refuse_training(layer: Layer) -> None:
    """Raises `CannotFoldError` for a layer that normalises as in training, also in a net of the TEST phase."""
    if layer.phase_in("TEST") == "TRAIN":
        raise CannotFoldError(f"{layer.where} uses each batch's own statistics, by its own phase: TRAIN")


def _bn(layer: Layer, blobs: Sequence[Array]) -> Affine:
    """A BN of forks: with running statistics (4 blobs), or with statistics that were worked into the 2 blobs."""
    kind, param = norm_forks.bn_kind(layer), Options.of(layer.message, "bn_param")
    if kind is None:
        raise CannotFoldError(f"{layer.where}: {norm_forks.WHICH_BN}")
    if kind == "segnet" and param.get("bn_mode") != "INFERENCE":
        raise CannotFoldError(
            f"{layer.where} uses each batch's own statistics in the TEST phase too; with bn_mode: INFERENCE it does "
            "not, but wants weights into which those of the training were worked"
        )
    count = 2 if kind == "segnet" else 4
    if len(blobs) != count:
        raise CannotFoldError(f"{layer.where} has {len(blobs)} blobs; a BN of its fork has {count}")
    if kind == "segnet":
        return Affine(blobs[0], blobs[1])
    if not param.get("frozen"):
        _refuse_training(layer)
    plain = _normalised(blobs[2], blobs[3], float(param.get("eps")))
    return Affine(plain.factor * blobs[0], plain.shift * blobs[0] + blobs[1])


def _normalised(mean: Array, variance: Array, eps: float) -> Affine:
    factor = 1.0 / np.sqrt(variance + eps)
    return Affine(factor, -mean * factor)


def _scale(layer: Layer, blobs: Sequence[Array]) -> Affine:
    param = layer.message.sub("scale_param")
    axis, axes = (int(param.get("axis", 1)), int(param.get("num_axes", 1))) if param else (1, 1)
    if len(layer.bottoms) != 1 or axis not in (1, -3) or axes != 1:
        raise CannotFoldError(f"{layer.where} is not one number per channel (axis {axis}, num_axes {axes})")
    if not blobs:
        raise CannotFoldError(f"there are no weights of {layer.where}")
    return Affine(blobs[0], blobs[1] if len(blobs) > 1 else np.zeros(len(blobs[0])))
