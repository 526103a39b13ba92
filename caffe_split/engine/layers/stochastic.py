"""Stochastic pooling of windows without padding (Zeiler and Fergus, arXiv 1301.3557), as Caffe's CUDA code has it."""

from __future__ import annotations

import torch
from torch.nn import functional

from caffe_split.engine.layers.base import Shape
from caffe_split.net.geometry import Window


def sampled(x: torch.Tensor, window: Window, size: Shape) -> torch.Tensor:
    """One value of each window, drawn with a probability in proportion to it; `size` is that of the top.

    A window of zeros gives 0. Values below 0 have no probability: what is drawn then is some value of the window.
    """
    values = _windows(x, window, size)
    sums = values.detach().cumsum(-1)
    # From above 0 to 1: a threshold of 0 would draw values that have no probability.
    threshold = (1 - torch.rand(sums.shape[:-1], device=x.device))[..., None] * sums[..., -1:]
    place = (sums >= threshold).int().argmax(-1, keepdim=True)
    return values.gather(-1, place)[..., 0]


def expected(x: torch.Tensor, window: Window, size: Shape) -> torch.Tensor:
    """The mean of what `sampled` draws: the sum of squares of each window over its sum; 0 where that is not above 0."""
    values = _windows(x, window, size)
    total, squares = values.sum(-1), values.square().sum(-1)
    some = total > 0
    return torch.where(some, squares / torch.where(some, total, torch.ones_like(total)), torch.zeros_like(total))


def _windows(x: torch.Tensor, window: Window, size: Shape) -> torch.Tensor:
    """The values of each window along a last axis, (N, C, *size, kernel height x width); zeros outside of the image."""
    # The last windows may reach past the end of the image.
    over = [
        max(0, (count - 1) * stride + kernel - length)
        for count, stride, kernel, length in zip(size, window.stride, window.kernel, x.shape[2:])
    ]
    padded = functional.pad(x, (0, over[1], 0, over[0]))
    cut = padded.unfold(2, window.kernel[0], window.stride[0]).unfold(3, window.kernel[1], window.stride[1])
    return cut[:, :, : size[0], : size[1]].flatten(-2)
