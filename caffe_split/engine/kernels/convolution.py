"""Convolutions by the compiled kernels where they are faster than PyTorch's, which compute all others."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch.nn import functional

from caffe_split.engine.kernels import tiles, winograd


def convolved(
    x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, stride: Sequence[int], pad: Sequence[int]
) -> torch.Tensor:
    """The convolution of x, (N, C, H, W), with weight, (outputs, C, height, width), plus the bias, (outputs,)."""
    if tiles.fits(x, weight, pad, stride):
        return tiles.convolved(x, weight, bias, pad)
    if winograd.fits(x, weight, pad, stride):
        return winograd.convolved(x, weight, bias, pad)
    return functional.conv2d(x, weight, bias, tuple(stride), tuple(pad))
