"""Undoing a split: its layers, read off the graph, multiplied out into one convolution. All in float64."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.net.geometry import Geometry
from caffe_split.net.graph import Graph, rules
from caffe_split.net.layers import Layer
from caffe_split.split.affine import CannotFoldError
from caffe_split.split.algebra import Kernels
from caffe_split.split.kinds import KindName
from caffe_split.split.recognise import Split
from caffe_split.split.walk import Blobs, Walk, with_kernels

# A sum of numbers that were stored as float32 is this far from the exact one, relative to its terms' absolute values:
# half a unit in the last place each, and a few steps of arithmetic.
ROUNDING = 4 * float(np.finfo(np.float32).eps)


@dataclass(frozen=True)
class Unsplit:
    """A split in one place of a document, multiplied out.

    `first` is the layer of the fast half (of the slow one, where there is no other), whose text is X's; `members` all
    the layers that X stands for, `first` among them; `top` the blob X writes. `kernels` has a group of 1: weight
    [n, C, kernel height, kernel width].
    """

    stem: str
    kind: KindName
    first: Layer
    members: tuple[Layer, ...]
    top: str
    geometry: Geometry
    kernels: Kernels


def innermost_first(origins: Sequence[str]) -> list[list[str]]:
    """The same names of split layers, once each, in rounds: splits inside another one in a round before it.

    Layers inside X's split are called X_...; so is a split that stands elsewhere and is only named so, and it comes
    in an earlier round than it must. Splits of one round have no layers in common.
    """
    rounds: dict[int, list[str]] = {}
    known = set(origins)
    for origin in dict.fromkeys(origins):
        around = sum(origin[:place] in known for place, letter in enumerate(origin) if letter == "_")
        rounds.setdefault(around, []).append(origin)
    return [rounds[around] for around in sorted(rounds, reverse=True)]


def unsplit(graph: Graph, split: Split, blobs: Blobs) -> Unsplit:
    """A split of `graph` multiplied out.

    Raises `CannotFoldError` with the reason where its layers are no linear map of one bottom, or something else reads
    what lies between them.
    """
    text = split.halves[0]
    if isinstance(text, Split):
        half = "fast" if split.fast is text else "slow"
        raise CannotFoldError(f"its {half} half '{text.origin}' was split again and is not folded")
    walk = Walk(graph, split, blobs)
    kernels = walk.value(split.exit, split.last + 1)
    assert kernels is not None
    if kernels.bias is not None and kernels.bias.any():
        kernels = _without_rounding(kernels, Walk(graph, split, blobs, absolute=True).value(split.exit, split.last + 1))
    members = sorted(split.members)
    check_alone(graph, members, split.last)
    layers = graph.layers
    return Unsplit(
        stem=split.origin,
        kind=split.kind,
        first=layers[text],
        members=tuple(layers[i] for i in members),
        top=split.exit,
        geometry=walk.geometry,
        kernels=kernels,
    )


def _without_rounding(kernels: Kernels, terms: Kernels | None) -> Kernels:
    """The kernels with a bias of 0 where all of it may be the rounding of what it is a sum of.

    `terms` are the same with the absolute values of all numbers. BatchNorm and Scale that undo each other leave such
    a bias: their numbers were rounded to float32.
    """
    assert terms is not None
    if kernels.bias is None or terms.bias is None:
        return kernels
    if (np.abs(kernels.bias) > ROUNDING * terms.bias).any():
        return kernels
    return Kernels(kernels.weight, np.zeros_like(kernels.bias))


def multiplied_out(graph: Graph, split: Split, blobs: Blobs, reader: int) -> tuple[Geometry, list[Kernels]]:
    """X's geometry, and the kernels, with a group of 1, that compute each bottom of layer `reader`, one of the split's.

    Raises `CannotFoldError` as `unsplit` does.
    """
    walk = Walk(graph, split, blobs)
    layer = graph.layers[reader]
    return walk.geometry, with_kernels(layer, [walk.value(bottom, reader) for bottom in layer.bottoms])


def check_alone(graph: Graph, members: Sequence[int], last: int) -> None:
    """Raises `CannotFoldError` where others would miss the members' blobs or weights, or belong to other phases."""
    layers, inside = graph.layers, set(members)
    for index in members:
        layer = layers[index]
        if rules(layer) != rules(layers[last]):
            raise CannotFoldError(f"{layer.where} and {layers[last].where} have different include or exclude rules")
        if layer.message.has("loss_weight"):
            raise CannotFoldError(f"the top of {layer.where} is a loss")
        for reader in graph.readers(index):
            if index != last and reader not in inside:
                blob = next(b for b in layers[reader].bottoms if b in layer.tops)
                raise CannotFoldError(f"{layers[reader].where} reads '{blob}', which would be gone")
    own = {layers[index].name for index in members}
    for index in members:
        for name in layers[index].param_names():
            for other in graph.sharing(name):
                if layers[other].name not in own and layers[other].type != "TPM":
                    raise CannotFoldError(
                        f"{layers[index].where} shares its parameter '{name}' with {layers[other].where}"
                    )
    # X will stand where its first layer stands, and write its top from there.
    for index in range(members[0], last):
        if index not in inside and layers[last].tops[0] in layers[index].bottoms + layers[index].tops:
            raise CannotFoldError(f"{layers[index].where} stands between its layers and uses '{layers[last].tops[0]}'")
