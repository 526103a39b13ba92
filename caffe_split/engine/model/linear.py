"""Linear maps of a blob by convolutions: each alone, one after another, and several side by side or added up.

With K the kernel (outputs, inputs, height, width) of a map of the bottom, and M the weights of a 1x1 convolution after
it, M K is that of both; kernels of a sum are added, those of a concat stacked, each laid at its place in a window that
holds them all. A convolution of several pixels after one of 1x1 without a bias is joined as well: where the former
looks past the border, the latter gives zeros in either order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Union

import torch
from torch.nn import functional

from caffe_split.engine.layers.dense import Convolution

# A kernel (outputs, inputs, height, width) and a bias (outputs), None for zeros.
Map = tuple[torch.Tensor, Union[torch.Tensor, None]]


@dataclass(frozen=True)
class Window:
    """The pixels that a kernel looks at, and its step, each along height and width."""

    size: tuple[int, int]
    pad: tuple[int, int]
    stride: tuple[int, int]

    def around(self, other: Window) -> Window:
        """The least window that holds both, whose steps are alike."""
        pad = _each(max, self.pad, other.pad)
        ends = [max(one - p, two - q) for one, p, two, q in zip(self.size, self.pad, other.size, other.pad)]
        return Window(pair([end + before for end, before in zip(ends, pad)]), pad, self.stride)

    def lay(self, kernel: torch.Tensor, inner: Window) -> torch.Tensor:
        """A kernel of the window `inner`, with zeros around it to this window."""
        (top, left), (height, width) = _each(int.__sub__, self.pad, inner.pad), inner.size
        below, right = self.size[0] - top - height, self.size[1] - left - width
        return functional.pad(kernel, (left, right, top, below)) if top or left or below or right else kernel


@dataclass(frozen=True)
class Leaf:
    """A convolution of the bottom."""

    layer: Convolution
    window: Window
    shape: tuple[int, int]  # outputs, inputs

    @property
    def layers(self) -> list[Convolution]:
        """The layers with weights."""
        return [self.layer]

    def map(self) -> Map:
        """The kernel and the bias."""
        return _dense(self.layer), self.layer.bias()


@dataclass(frozen=True)
class Behind:
    """A convolution of what `inner` gives; one of the two looks at a single pixel."""

    layer: Convolution
    inner: Linear
    window: Window
    shape: tuple[int, int]

    @property
    def layers(self) -> list[Convolution]:
        """The layers with weights."""
        return [*self.inner.layers, self.layer]

    def map(self) -> Map:
        """The kernel and the bias."""
        kernel, bias = self.inner.map()
        outer, own = _dense(self.layer), self.layer.bias()
        if outer.shape[2:] == (1, 1):
            matrix = outer.flatten(1)
            joined = (matrix @ kernel.flatten(1)).view(-1, *kernel.shape[1:])
            if bias is not None:
                own = matrix @ bias if own is None else torch.addmv(own, matrix, bias)
            return joined, own
        return torch.einsum("omhw,mi->oihw", outer, kernel.flatten(1)), own


@dataclass(frozen=True)
class Beside:
    """Maps side by side in a concat, or with `factors` added up."""

    inner: tuple[Linear, ...]
    factors: tuple[float, ...] | None
    window: Window
    shape: tuple[int, int]

    @property
    def layers(self) -> list[Convolution]:
        """The layers with weights, each once."""
        return list(dict.fromkeys(layer for one in self.inner for layer in one.layers))

    def map(self) -> Map:
        """The kernel and the bias."""
        maps = [one.map() for one in self.inner]
        kernels = [self.window.lay(kernel, one.window) for one, (kernel, _) in zip(self.inner, maps)]
        biases = [bias for _, bias in maps]
        if self.factors is None:
            if all(bias is None for bias in biases):
                return torch.cat(kernels), None
            filled = [k.new_zeros(len(k)) if bias is None else bias for k, bias in zip(kernels, biases)]
            return torch.cat(kernels), torch.cat(filled)
        scaled = [k if factor == 1 else k * factor for k, factor in zip(kernels, self.factors)]
        given = [bias * factor for bias, factor in zip(biases, self.factors) if bias is not None]
        return _total(scaled), _total(given) if given else None


Linear = Union[Leaf, Behind, Beside]

PIXEL = Window((1, 1), (0, 0), (1, 1))


def has_bias(linear: Linear) -> bool:
    """Whether a map adds a bias."""
    if isinstance(linear, Beside):
        return any(has_bias(one) for one in linear.inner)
    return linear.layer.bias() is not None or (isinstance(linear, Behind) and has_bias(linear.inner))


def work(linear: Linear) -> tuple[int, int]:
    """Multiplications a pixel of the layers run one by one, and those that join their kernels."""
    if isinstance(linear, Leaf):
        return linear.layer.blobs[0].numel(), 0
    if isinstance(linear, Behind):
        apart, joining = work(linear.inner)
        own = linear.layer.blobs[0].numel()
        return apart + own, joining + linear.layer.group * own * linear.inner.shape[1] * math.prod(
            linear.inner.window.size
        )
    parts = [work(one) for one in linear.inner]
    return sum(apart for apart, _ in parts), sum(joining for _, joining in parts)


def _dense(layer: Convolution) -> torch.Tensor:
    """The kernels of a convolution as if it had one group, with zeros for what they do not look at."""
    weight, group = layer.blobs[0], layer.group
    if group == 1:
        return weight
    own = weight.view(group, -1, *weight.shape[1:])
    spread = torch.einsum("goihw,gk->gokihw", own, torch.eye(group, dtype=weight.dtype, device=weight.device))
    return spread.reshape(len(weight), -1, *weight.shape[2:])


def _total(values: Sequence[torch.Tensor]) -> torch.Tensor:
    total = values[0]
    for value in values[1:]:
        total = total + value
    return total


def _each(function: Callable[[int, int], int], one: Sequence[int], two: Sequence[int]) -> tuple[int, int]:
    return pair([function(a, b) for a, b in zip(one, two)])


def pair(values: Sequence[int]) -> tuple[int, int]:
    """Two numbers as a tuple."""
    first, second = values
    return int(first), int(second)
