"""The kernels that compute a blob inside a split from the split's bottom.

Between the blob that both halves of X read and the top of X_reorder everything is linear for most kinds; walking back
from the reorder gives the kernels of the whole in X's own geometry. All in float64.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.net.geometry import Geometry, convolution_geometry
from caffe_split.net.graph import Graph
from caffe_split.net.layers import Layer
from caffe_split.split.affine import CannotFoldError, affine
from caffe_split.split.algebra import Array, Kernels
from caffe_split.split.groups import ungrouped
from caffe_split.split.recognise import Split

Blobs = Mapping[str, Sequence[np.ndarray]]


class Walk:
    """From a blob of a split back to the split's bottom.

    absolute: with the absolute values of all numbers. geometry: that of the whole, X.
    """

    def __init__(self, graph: Graph, split: Split, blobs: Blobs, absolute: bool = False) -> None:
        self.graph, self.split, self.blobs, self.absolute = graph, split, blobs, absolute
        self.members = split.members
        text = split.halves[0]
        assert isinstance(text, int)
        first = graph.layers[text]
        self.geometry = _geometry(first)
        self.channels = self._weight(first).shape[1] * self.geometry.group

    def value(self, blob: str, reader: int) -> Kernels | None:
        """The kernels that compute `blob`, as layer `reader` sees it, from the bottom; None: it is the bottom."""
        index = self.graph.writer(blob, reader)
        if (blob, index) == (self.split.entry, self.split.source):
            return None
        assert index is not None and index in self.members, f"'{blob}' comes from outside the split"
        layer = self.graph.layers[index]
        if layer.type not in _RULES:
            raise CannotFoldError(f"{layer.where} is a {layer.type}, which no convolution can take in")
        pointwise = self._pointwise_below(layer, index)
        if pointwise is not None:
            return self._after_pointwise(layer, pointwise)
        return _RULES[layer.type](self, layer, [self.value(bottom, index) for bottom in layer.bottoms])

    def _pointwise_below(self, layer: Layer, index: int) -> Layer | None:
        """The 1x1 convolution of all pixels of the split's bottom that a convolution reads, if it reads one."""
        below = self.graph.writer(layer.bottoms[0], index) if layer.type == "Convolution" else None
        if below is None or below not in self.members or self.graph.layers[below].type != "Convolution":
            return None
        found = self.graph.layers[below]
        entry = found.bottoms[0], self.graph.writer(found.bottoms[0], below)
        geometry = _geometry(found)
        plain = geometry == Geometry((1, 1), group=geometry.group)
        return found if plain and entry == (self.split.entry, self.split.source) else None

    def _after_pointwise(self, layer: Layer, below: Layer) -> Kernels:
        """A convolution of a 1x1 convolution `below` is one of the bottom, with its own geometry."""
        geometry, weight = _geometry(layer), self._weight(layer)
        pointwise = ungrouped(self._weight(below), _geometry(below).group)[:, :, 0, 0]
        count, per_group = weight.shape[:2]
        if per_group * geometry.group != len(pointwise):
            raise CannotFoldError(
                f"{layer.where} takes {per_group * geometry.group} channels where {len(pointwise)} arrive"
            )
        bias = np.zeros(count)
        own = self.blobs[below.name]
        offset = self._numbers(own[1]).reshape(-1) if len(own) > 1 else np.zeros(len(pointwise))
        if offset.any() and any(geometry.pad):
            raise CannotFoldError(f"{below.where} has a bias, which the padding of {layer.where} does not have")
        whole = np.zeros((count, pointwise.shape[1], *weight.shape[2:]))
        channels = np.split(np.arange(len(pointwise)), geometry.group)
        for rows, inputs in zip(np.split(np.arange(count), geometry.group), channels):
            whole[rows] = np.moveaxis(np.tensordot(weight[rows], pointwise[inputs], axes=(1, 0)), -1, 1)
            bias[rows] = weight[rows].sum(axis=(2, 3)) @ offset[inputs]
        blobs = self.blobs[layer.name]
        bias += self._numbers(blobs[1]).reshape(-1) if len(blobs) > 1 else 0.0
        return Kernels(self._in_own_geometry(layer, geometry, whole), bias if bias.any() else None)

    def _weight(self, layer: Layer) -> Array:
        blobs = self.blobs.get(layer.name) or []
        if not blobs or blobs[0].ndim != 4:
            raise CannotFoldError(f"the weights of {layer.where} are not there, or not those of a 2-D convolution")
        return self._numbers(blobs[0])

    def _numbers(self, values: np.ndarray) -> Array:
        numbers = np.asarray(values, dtype=np.float64)
        return np.abs(numbers) if self.absolute else numbers

    def convolution(self, layer: Layer, bottoms: list[Kernels | None]) -> Kernels:
        """A convolution of the bottom, or a 1x1 one of what other convolutions compute."""
        geometry, weight = _geometry(layer), self._weight(layer)
        dense = ungrouped(weight, geometry.group)
        blobs = self.blobs[layer.name]
        bias = self._numbers(blobs[1]).reshape(-1) if len(blobs) > 1 else None
        (kernels,) = bottoms
        if kernels is None:
            return Kernels(self._in_own_geometry(layer, geometry, dense), bias)
        if geometry != Geometry((1, 1), group=geometry.group):
            raise CannotFoldError(f"{layer.where} is a convolution of another one and not 1x1")
        if dense.shape[1] != len(kernels.weight):
            raise CannotFoldError(f"{layer.where} takes {dense.shape[1]} channels where {len(kernels.weight)} arrive")
        mixed = kernels.mixed(dense[:, :, 0, 0])
        # Every zero is a positive one, as in a sum.
        mixed.weight[...] += 0.0
        return Kernels(mixed.weight, _sum_of([each for each in (mixed.bias, bias) if each is not None]))

    def _in_own_geometry(self, layer: Layer, geometry: Geometry, dense: Array) -> Array:
        """The kernels of a convolution of the bottom with `geometry`, written with X's own.

        Place (i, j) moves to where X's kernel sees the same pixel.
        """
        own = self.geometry
        if geometry.stride != own.stride:
            raise CannotFoldError(f"{layer.where} has stride {geometry.stride}, '{self.split.origin}' {own.stride}")
        if dense.shape[1] != self.channels:
            raise CannotFoldError(
                f"{layer.where} reads {dense.shape[1]} channels, '{self.split.origin}' {self.channels}"
            )
        weight = np.zeros((*dense.shape[:2], *own.kernel))
        for i, j in np.ndindex(*geometry.kernel):
            values = dense[:, :, i, j]
            row, column = (
                (place * d - p + pad) / dilation
                for place, d, p, pad, dilation in zip((i, j), geometry.dilation, geometry.pad, own.pad, own.dilation)
            )
            inside = row in range(own.kernel[0]) and column in range(own.kernel[1])
            if inside:
                weight[:, :, int(row), int(column)] += values
            elif values.any():
                raise CannotFoldError(
                    f"{layer.where} looks at pixels that the {own.kernel[0]}x{own.kernel[1]} kernel of "
                    f"'{self.split.origin}' does not reach"
                )
        return weight

    def concat(self, layer: Layer, bottoms: list[Kernels | None]) -> Kernels:
        """The kernels of all bottoms, one bottom after the other."""
        parts = with_kernels(layer, bottoms)
        bias = None
        if any(part.bias is not None for part in parts):
            bias = np.concatenate([np.zeros(len(p.weight)) if p.bias is None else p.bias for p in parts])
        return Kernels(np.concatenate([part.weight for part in parts]), bias)

    def eltwise(self, layer: Layer, bottoms: list[Kernels | None]) -> Kernels:
        """The sum of the bottoms' kernels, each times its coefficient."""
        param = layer.message.sub("eltwise_param")
        factors = [float(self._numbers(c)) for c in param.get_all("coeff")] if param is not None else []
        parts = with_kernels(layer, bottoms)
        if factors:
            parts = [part.mixed(np.eye(len(part.weight)) * factor) for part, factor in zip(parts, factors)]
        if len({part.weight.shape for part in parts}) != 1:
            raise CannotFoldError(f"{layer.where} sums unequal numbers of channels")
        return _sum(parts)

    def normalisation(self, layer: Layer, bottoms: list[Kernels | None]) -> Kernels:
        """The kernels times a number each, plus a bias: what BatchNorm and Scale compute in the TEST phase."""
        (kernels,) = with_kernels(layer, bottoms)
        found = affine(layer, self.blobs.get(layer.name) or [], len(kernels.weight))
        return (found.absolute if self.absolute else found).after(kernels)


_RULES: dict[str, Callable[[Walk, Layer, list[Kernels | None]], Kernels]] = {
    "Convolution": Walk.convolution,
    "Concat": Walk.concat,
    "Eltwise": Walk.eltwise,
    "BatchNorm": Walk.normalisation,
    "Scale": Walk.normalisation,
}


def _geometry(layer: Layer) -> Geometry:
    try:
        return convolution_geometry(layer)
    except CaffeSplitError as error:
        raise CannotFoldError(str(error).rstrip(".")) from error


def with_kernels(layer: Layer, values: list[Kernels | None]) -> list[Kernels]:
    """The kernels of a layer's bottoms. Raises `CannotFoldError` where one of them is the split's bottom itself."""
    kernels = [value for value in values if value is not None]
    if len(kernels) < len(values):
        raise CannotFoldError(f"{layer.where} takes the bottom itself, through no convolution")
    return kernels


def _sum(parts: Sequence[Kernels]) -> Kernels:
    weight = _sum_of([part.weight for part in parts])
    assert weight is not None
    return Kernels(weight, _sum_of([part.bias for part in parts if part.bias is not None]))


def _sum_of(arrays: Sequence[Array]) -> Array | None:
    """Their sum, in their order, without a copy of all of them; None of none."""
    if not arrays:
        return None
    total = arrays[0].copy()
    for array in arrays[1:]:
        total += array
    return total
