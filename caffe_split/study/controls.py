"""The unsplit net of equal parameters: convolutions with more kernels."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.layertypes.table import record_of
from caffe_split.net.geometry import convolution_geometry
from caffe_split.net.layers import Layer, all_layers, convolutions, phase_layers
from caffe_split.net.state import TRAIN


def widened(
    document: prototxt.Document, layers: Sequence[str], parameters: int
) -> tuple[prototxt.Document, dict[str, list[int]]]:
    """A copy of the net in which `layers` have more kernels, until it has `parameters` or just more.

    Kernels are added one at a time, or as many as the groups of the convolutions that read them need, each time to the
    layer that has grown least in proportion. A convolution whose output is added to that of others gets more kernels
    together with these. Returns the copy, and layer -> numbers of kernels before and after. Raises `CaffeSplitError`
    where none of the layers can have more kernels.
    """
    copy = document.copy()
    families = raisable(copy, layers)
    before = {layer.name: _kernels(layer) for family, _ in families for layer in family}
    while _parameters(copy) < parameters:
        _raise(*min(families, key=lambda each: _grown(each[0][0], before)))
    return copy, {layer.name: [before[layer.name], _kernels(layer)] for family, _ in families for layer in family}


def _grown(layer: Layer, before: Mapping[str, int]) -> tuple[float, int]:
    """How far a layer has grown, for comparison: in proportion, and of two alike how many kernels it had."""
    return _kernels(layer) / before[layer.name], before[layer.name]


def raisable(document: prototxt.Document, layers: Sequence[str]) -> list[tuple[list[Layer], int]]:
    """The convolutions among `layers` that can have more kernels, each with those that must have as many.

    Beside each is how many kernels it needs at a time. Raises `CaffeSplitError` where there is none.
    """
    families = [family for family in _families(document) if any(layer.name in layers for layer in family)]
    families = [family for family in families if all(convolution_geometry(layer).group == 1 for layer in family)]
    found = [(family, step) for family in families if (step := _step(document, family))]
    if not found:
        raise CaffeSplitError(f"{document.filename}: none of {', '.join(layers)} can be given more kernels (groups).")
    return found


def _step(document: prototxt.Document, family: list[Layer]) -> int:
    """By how many kernels a family can be raised, as the layers that read it allow; 0 where by none.

    The groups of a reader divide its channels; a reader with a group for each channel allows no other number.
    """
    known = infer_shapes(phase_layers(document, TRAIN)).unknown.keys()
    groups = {convolution_geometry(layer).group for layer in convolutions(all_layers(document))}
    for step in sorted({1, *groups, math.lcm(*groups)}):
        if step >= _kernels(family[0]) > 1:
            break
        _raise(family, step)
        try:
            if infer_shapes(phase_layers(document, TRAIN)).unknown.keys() <= known:
                return step
        except CaffeSplitError:
            continue
        finally:
            _raise(family, -step)
    return 0


def _raise(family: list[Layer], kernels: int) -> None:
    for layer in family:
        layer.message.sub("convolution_param").set("num_output", _kernels(layer) + kernels)  # type: ignore[union-attr]


def _parameters(document: prototxt.Document) -> int:
    shapes = infer_shapes(phase_layers(document, TRAIN))
    if shapes.parameter_count is None:
        layer, why = next(iter(shapes.unknown.items()))
        raise CaffeSplitError(f"{document.filename}: its number of parameters is not known: layer '{layer}': {why}")
    return shapes.parameter_count


def _kernels(layer: Layer) -> int:
    param = layer.message.sub("convolution_param")
    assert param is not None
    return int(param.get("num_output"))


def _families(document: prototxt.Document) -> list[list[Layer]]:
    """All convolutions, in groups whose outputs must have equally many channels."""
    owner: dict[str, str] = {}

    def find(blob: str) -> str:
        while owner.setdefault(blob, blob) != blob:
            blob = owner[blob]
        return blob

    for layer in all_layers(document):
        record = record_of(layer.type)
        if record.pairs_channels:
            for bottom, top in zip(layer.bottoms, layer.tops):
                owner[find(top)] = find(bottom)
        elif record.keeps_channels:
            for blob in (*layer.bottoms[1:], *layer.tops):
                if layer.bottoms:
                    owner[find(blob)] = find(layer.bottoms[0])
    families: dict[str, list[Layer]] = {}
    for layer in convolutions(all_layers(document)):
        families.setdefault(find(layer.tops[0]), []).append(layer)
    return list(families.values())
