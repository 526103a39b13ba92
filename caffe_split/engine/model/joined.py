"""Convolutions that are one linear map of their bottom together, run as one convolution.

Behind a convolution without an activation another one, a sum or a concat is linear, too: the halves, the added path,
the concat and the reorder of a split are one map of X's bottom. Its kernel is multiplied out from the layers' own,
products of small matrices, and the images pass through it once. Autograd takes its gradient apart again, so that each
layer gets the gradient that it has when it runs alone, but for rounding. Done only where it saves multiplications.

With K the kernel (outputs, inputs, height, width) of a map of the bottom, and M the weights of a 1x1 convolution behind
it, M K is that of both; kernels of a sum are added, those of a concat stacked, each laid at its place in a window that
holds them all. A convolution of several pixels behind one of 1x1 without a bias is joined as well: where the former
looks past the border, the latter gives zeros in either order.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Union

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape
from caffe_split.engine.layers.dense import Convolution
from caffe_split.engine.layers.shape import Concat, Eltwise
from caffe_split.engine.model.calls import LayerCall
from caffe_split.engine.model.late import Memory

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
        return Window(_pair([end + before for end, before in zip(ends, pad)]), pad, self.stride)

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
    def layers(self) -> list[Layer]:
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
    def layers(self) -> list[Layer]:
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
    def layers(self) -> list[Layer]:
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


@dataclass
class JoinedCall(LayerCall):
    """The call of several layers as one convolution. `layer` is the last of them; see `LayerCall`."""

    linear: Linear | None = None

    @property
    @override
    def layers(self) -> Sequence[Layer]:
        assert self.linear is not None
        return self.linear.layers

    @override
    def compute(self, given: Sequence[torch.Tensor], memory: Memory) -> Sequence[torch.Tensor]:
        assert self.linear is not None
        # The products are small, and what they round is a weight: in float32 as the weights are.
        with torch.autocast(given[0].device.type, enabled=False):
            kernel, bias = self.linear.map()
        window = self.linear.window
        return (functional.conv2d(given[0], kernel, bias, window.stride, window.pad),)


def join(calls: Sequence[LayerCall], shapes: Mapping[str, Shape], outputs: Sequence[str]) -> list[LayerCall]:
    """The calls with one for each group of layers that are one convolution, where that saves multiplications.

    shapes: of each blob by name. outputs: the blobs that are read from outside.
    """
    groups = _Finder(calls, shapes, outputs).groups
    left = dict(enumerate(calls))
    for at in sorted(groups, reverse=True):
        group = groups[at]
        if at in left and len(group.members) > 1 and _saves(group.linear, shapes[calls[at].tops[0]]):
            for member in group.members:
                del left[member]
            last = calls[at]
            left[at] = JoinedCall(last.layer, (group.bottom,), last.tops, low=last.low, linear=group.linear)
    return [left[at] for at in sorted(left)]


@dataclass(frozen=True)
class _Group:
    """Calls that are one linear map of the blob `bottom`."""

    linear: Linear
    members: frozenset[int]
    bottom: str


class _Finder:
    """Finds the calls whose tops are linear maps of one blob: `groups`, by the last call of each."""

    def __init__(self, calls: Sequence[LayerCall], shapes: Mapping[str, Shape], outputs: Sequence[str]) -> None:
        self.calls, self.shapes = calls, shapes
        self.groups: dict[int, _Group] = {}
        # Blobs may be overwritten: a value is known by the call that has written it.
        self.written: dict[str, int] = {}
        self.readers = self._readers(outputs)
        for at, call in enumerate(calls):
            group = self._group(at, call) if self._is_free(call) else None
            if group is not None:
                self.groups[at] = group
            self.written.update(dict.fromkeys(call.tops, at))

    def _readers(self, outputs: Sequence[str]) -> dict[int, int]:
        """Call -> how many times its top is read."""
        written: dict[str, int] = {}
        readers = dict.fromkeys(range(-1, len(self.calls)), 0)
        for at, call in enumerate(self.calls):
            for name in call.bottoms:
                readers[written.get(name, -1)] += 1
            written.update(dict.fromkeys(call.tops, at))
        for name in outputs:
            readers[written.get(name, -1)] += 1
        return readers

    def _is_free(self, call: LayerCall) -> bool:
        """Whether nothing but its top is needed of a call."""
        alone = call.chain is None and call.access.is_plain and not call.detached and not call.weights
        fresh = len(call.tops) == 1 and call.tops[0] not in call.bottoms
        return alone and fresh and len(set(call.bottoms)) == len(call.bottoms) > 0

    def _inner(self, name: str, low: bool) -> _Group | None:
        """The group that gives a blob which is read once; None where the blob has to be there."""
        at = self.written.get(name, -1)
        group = self.groups.get(at)
        # Run later than before, the group still finds its bottom: Caffe refuses to write over what a layer has read.
        return group if group is not None and self.readers[at] == 1 and self.calls[at].low == low else None

    def _group(self, at: int, call: LayerCall) -> _Group | None:
        if type(call.layer) is Convolution and len(call.bottoms) == 1:
            return self._convolution(at, call, call.layer)
        if isinstance(call.layer, (Concat, Eltwise)):
            return self._beside(at, call)
        return None

    def _convolution(self, at: int, call: LayerCall, layer: Convolution) -> _Group | None:
        weight, window = layer.blobs[0], layer.window
        if weight.dim() != 4 or layer.first != 1 or set(window.dilation) != {1}:
            return None
        own = Window(_pair(weight.shape[2:]), _pair(window.pad), _pair(window.stride))
        before = self._inner(call.bottoms[0], call.low)
        if before is not None:
            inner, shape = before.linear, (len(weight), before.linear.shape[1])
            first = inner.window == _PIXEL and not _has_bias(inner)
            if own == _PIXEL or first:
                linear = Behind(layer, inner, inner.window if own == _PIXEL else own, shape)
                return replace(before, linear=linear, members=before.members | {at})
        leaf = Leaf(layer, own, (len(weight), layer.group * weight.shape[1]))
        return _Group(leaf, frozenset({at}), call.bottoms[0])

    def _beside(self, at: int, call: LayerCall) -> _Group | None:
        layer = call.layer
        factors = tuple(float(factor) for factor in layer.factors) if isinstance(layer, Eltwise) else None
        if layer.operation != "SUM" if isinstance(layer, Eltwise) else layer.along != 1:  # type: ignore[attr-defined]
            return None
        groups = [group for group in (self._inner(name, call.low) for name in call.bottoms) if group is not None]
        if len(groups) < len(call.bottoms) or len({group.bottom for group in groups}) > 1:
            return None
        inner = tuple(group.linear for group in groups)
        if len({one.window.stride for one in inner}) > 1:
            return None
        window = inner[0].window
        for one in inner[1:]:
            window = window.around(one.window)
        # A window that is wider at the end than at the start may have another number of places.
        if not _fits(window, self.shapes[groups[0].bottom], self.shapes[call.tops[0]]):
            return None
        outputs = sum(one.shape[0] for one in inner) if factors is None else inner[0].shape[0]
        linear = Beside(inner, factors, window, (outputs, inner[0].shape[1]))
        return replace(groups[0], linear=linear, members=frozenset({at}).union(*(each.members for each in groups)))


_PIXEL = Window((1, 1), (0, 0), (1, 1))


def _has_bias(linear: Linear) -> bool:
    """Whether a map adds a bias."""
    if isinstance(linear, Beside):
        return any(_has_bias(one) for one in linear.inner)
    return linear.layer.bias() is not None or (isinstance(linear, Behind) and _has_bias(linear.inner))


def _fits(window: Window, bottom: Shape, top: Shape) -> bool:
    """Whether a window has as many places on a bottom as the top has pixels."""
    places = [
        (length + 2 * pad - size) // step + 1
        for length, size, pad, step in zip(bottom[2:], window.size, window.pad, window.stride)
    ]
    return tuple(places) == tuple(top[2:])


def _saves(linear: Linear, top: Shape) -> bool:
    """Whether one convolution with the joined kernel needs less multiplications, those of joining it included."""
    pixels = top[0] * math.prod(top[2:])
    joined = math.prod((*linear.shape, *linear.window.size))
    apart, joining = _work(linear)
    return joining + joined * pixels < apart * pixels


def _work(linear: Linear) -> tuple[int, int]:
    """Multiplications a pixel of the layers run one by one, and those that join their kernels."""
    if isinstance(linear, Leaf):
        return linear.layer.blobs[0].numel(), 0
    if isinstance(linear, Behind):
        apart, joining = _work(linear.inner)
        own = linear.layer.blobs[0].numel()
        return apart + own, joining + linear.layer.group * own * linear.inner.shape[1] * math.prod(
            linear.inner.window.size
        )
    parts = [_work(one) for one in linear.inner]
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
    return _pair([function(a, b) for a, b in zip(one, two)])


def _pair(values: Sequence[int]) -> tuple[int, int]:
    first, second = values
    return int(first), int(second)
