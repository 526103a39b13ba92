"""The branches of a split that stands in a net: how much each computes, and what X_split2 becomes without some."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.net.graph import Graph
from caffe_split.net.layers import Layer
from caffe_split.split.affine import CannotFoldError, affine
from caffe_split.split.algebra import Array, Kernels
from caffe_split.split.groups import grouped
from caffe_split.split.kinds import kind_of
from caffe_split.split.unsplit import check_alone, multiplied_out
from caffe_split.split.wired import Split, last_layer

Blobs = Mapping[str, Sequence[np.ndarray]]


@dataclass(frozen=True)
class StandingBranch:
    """A branch that is added to the slow half.

    `name` is that of its last convolution, `blob` what the sum reads of it, `layers` all of it. `kernels` are what it
    computes, in X's geometry with a group of 1. `share` is their length relative to that of the whole slow half's.
    """

    name: str
    blob: str
    layers: tuple[Layer, ...]
    kernels: Kernels
    share: float


@dataclass(frozen=True)
class Standing:
    """The slow half of a split in one place of a document.

    `slow` is X_split2 and `norms` what normalises it before `total`, the sum; `group` is X's.
    """

    slow: Layer
    norms: tuple[Layer, ...]
    total: Layer
    group: int
    branches: tuple[StandingBranch, ...]


def standing(graph: Graph, split: Split, blobs: Blobs) -> Standing:
    """The slow half of a split of `graph`. Raises `CannotFoldError` where it is no sum of linear branches."""
    if split.total is None:
        raise CannotFoldError("what is added to it is no branch beside its slow half")
    if isinstance(split.slow, Split):
        raise CannotFoldError(f"its slow half '{split.slow.origin}' was split again and is not folded")
    if isinstance(split.fast, Split):
        raise CannotFoldError(f"its fast half '{split.fast.origin}' was split again and is not folded")
    total = graph.layers[split.total]
    check_alone(graph, sorted(split.members), split.last)
    param = total.message.sub("eltwise_param")
    if param is not None and param.has("coeff"):
        raise CannotFoldError(f"{total.where} has coefficients")
    if len(total.message.all_fields("bottom")) != len(total.bottoms):
        raise CannotFoldError(f"{total.where} has its bottoms in one list; write each on its own")
    paths = {blob: _path(graph, split, blob, split.total) for blob in total.bottoms}
    geometry, found = multiplied_out(graph, split, blobs, split.total)
    kernels = dict(zip(total.bottoms, found))
    whole = np.sum([value.weight for value in kernels.values()], axis=0)
    words = kind_of(split.kind).reads
    ends = {last_layer(split.added[word]) for word in split.added if word not in words.values()}
    branches: list[StandingBranch] = []
    norms: tuple[Layer, ...] = ()
    for blob, path in paths.items():
        layers = tuple(graph.layers[index] for index in sorted(path))
        if split.slow in path:
            norms = tuple(layer for layer in layers if layer is not graph.layers[split.slow])
            continue
        (end,) = ends & path
        share = _length(kernels[blob].weight) / max(_length(whole), np.finfo(np.float64).tiny)
        branches.append(StandingBranch(graph.layers[end].name, blob, layers, kernels[blob], share))
    return Standing(graph.layers[split.slow], norms, total, geometry.group, tuple(branches))


def _length(weight: Array) -> float:
    return float(np.linalg.norm(weight))


def _path(graph: Graph, split: Split, blob: str, reader: int) -> set[int]:
    """The layers from the split's bottom to `blob`, as layer `reader` sees it."""
    index = graph.writer(blob, reader)
    if index is None or index not in split.members:
        return set()
    return {index}.union(*(_path(graph, split, bottom, index) for bottom in graph.layers[index].bottoms))


def absorbed(place: Standing, gone: Sequence[StandingBranch], blobs: Blobs) -> dict[str, list[np.ndarray]]:
    """The new blobs of X_split2, and of the Scale after it, that also compute the branches `gone`.

    In the TEST phase: the kernels go before the normalisation, which is divided out, and the branches' constants after
    it. Raises `CannotFoldError` where X_split2 cannot take them.
    """
    weight = np.sum([branch.kernels.weight for branch in gone], axis=0)
    biases = [branch.kernels.bias for branch in gone if branch.kernels.bias is not None]
    bias = np.sum(biases, axis=0) if biases else np.zeros(len(weight))
    factor, changed = np.ones(len(weight)), {}
    for norm in place.norms:
        if norm.type not in ("BatchNorm", "Scale"):
            raise CannotFoldError(f"{norm.where} stands after its slow half")
        factor = factor * affine(norm, blobs.get(norm.name) or [], len(weight)).factor
    if bias.any():
        last = place.norms[-1] if place.norms else None
        if last is None or last.type != "Scale" or len(blobs[last.name]) != 2:
            raise CannotFoldError(f"{place.slow.where} has no Scale after it that could take the branches' constants")
        gamma, beta = blobs[last.name]
        changed[last.name] = [gamma, (np.asarray(beta, np.float64) + bias.reshape(beta.shape)).astype(np.float32)]
    if not factor.all():
        raise CannotFoldError(f"what normalises {place.slow.where} has put channels to 0")
    own = blobs[place.slow.name]
    more = grouped(weight / factor[:, None, None, None], place.group)
    changed[place.slow.name] = [(np.asarray(own[0], np.float64) + more).astype(np.float32), *own[1:]]
    return changed
