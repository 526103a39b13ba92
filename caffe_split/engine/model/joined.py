"""Convolutions that are one linear map of their bottom together, run as one convolution.

Behind a convolution without an activation another one, a sum or a concat is linear, too: the halves, the added path,
the concat and the reorder of a split are one map of X's bottom. Its kernel is multiplied out from the layers' own,
products of small matrices, and the images pass through it once. Autograd takes its gradient apart again, so that each
layer gets the gradient that it has when it runs alone, but for rounding. Done only where it saves multiplications. The
maps themselves: see `model.linear`.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.kernels.convolution import convolved
from caffe_split.engine.layers.base import Layer, Shape
from caffe_split.engine.layers.dense import Convolution
from caffe_split.engine.layers.shape import Concat, Eltwise
from caffe_split.engine.model.calls import LayerCall
from caffe_split.engine.model.late import Memory
from caffe_split.engine.model.linear import PIXEL, Behind, Beside, Leaf, Linear, Window, has_bias, pair, work


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
        if self.linear.layers[0].by_kernels:
            return (convolved(given[0], kernel, bias, window.stride, window.pad),)
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
        own = Window(pair(weight.shape[2:]), pair(window.pad), pair(window.stride))
        before = self._inner(call.bottoms[0], call.low)
        if before is not None:
            inner, shape = before.linear, (len(weight), before.linear.shape[1])
            first = inner.window == PIXEL and not has_bias(inner)
            if own == PIXEL or first:
                linear = Behind(layer, inner, inner.window if own == PIXEL else own, shape)
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
    apart, joining = work(linear)
    return joining + joined * pixels < apart * pixels
