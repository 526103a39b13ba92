"""The sizes of all blobs, and which of them vary with those of the inputs: found by asking for several sizes."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.shape_rules import Shape
from caffe_split.layertypes.shapes import NetShapes, infer_shapes
from caffe_split.net.layers import Layer

# What may vary -> the axis of the inputs, and by how much it is made longer to see what follows. Images grow by
# 64, so that nets that halve an image up to six times still fit together.
VARYING = {"batch": (0, 3), "height": (2, 64), "width": (3, 64)}


@dataclass(frozen=True)
class Sizes:
    """The shapes of a net for several sizes of its inputs, its own first."""

    probes: tuple[NetShapes, ...]
    inputs: tuple[Mapping[str, Shape], ...]

    def tops(self, layer: Layer) -> list[tuple[tuple[int, ...], ...]]:
        """Of each top, of each axis, its length in each probe."""
        shapes = [probe.tops[layer.name] for probe in self.probes]
        return [tuple(zip(*same)) for same in zip(*shapes)]

    def blobs(self, layer: Layer) -> list[Shape]:
        """The shapes of a layer's parameters and state, in Caffe's order."""
        return self.probes[0].stored(layer.name)


def sizes_of(
    layers: Sequence[Layer], inputs: Mapping[str, Shape], varying: Iterable[str]
) -> tuple[Sizes, list[tuple[Layer, str]]]:
    """The sizes, and layers that stand against what is to vary, each with the reason.

    Raises `CaffeSplitError` for layers that do not fit the net's own inputs.
    """
    own = infer_shapes(layers, inputs)
    probes, shapes, problems = [own], [inputs], []
    for word in varying:
        changed = longer(inputs, word)
        found = _refusal(layers, own, changed, word)
        if isinstance(found, NetShapes):
            probes.append(found)
            shapes.append(changed)
        else:
            problems.append(found)
    return Sizes(tuple(probes), tuple(shapes)), problems


def longer(inputs: Mapping[str, Shape], word: str) -> dict[str, Shape]:
    """The inputs with more of what may vary; those that have no such axis, as height has only an image, as they are."""
    axis, more = VARYING[word]
    return {
        name: (*shape[:axis], shape[axis] + more, *shape[axis + 1 :])
        if len(shape) == 4 or (axis == 0 and shape)
        else shape
        for name, shape in inputs.items()
    }


def _refusal(
    layers: Sequence[Layer], own: NetShapes, inputs: Mapping[str, Shape], word: str
) -> NetShapes | tuple[Layer, str]:
    """The shapes for other inputs; or the first layer that does not take them, and why."""

    def fails(count: int) -> CaffeSplitError | None:
        try:
            infer_shapes(layers[:count], inputs)
        except CaffeSplitError as error:
            return error
        return None

    if fails(len(layers)) is not None:
        fits, count = 0, len(layers)  # beginnings of the net that do and that do not
        while count - fits > 1:
            middle = (fits + count) // 2
            fits, count = (fits, middle) if fails(middle) is not None else (middle, count)
        layer = layers[count - 1]
        reason = str(fails(count)).split(": ", 1)[-1].removeprefix(f"{layer.where}: ")
        return layer, f"it does not take another {word}: {reason}"
    found = infer_shapes(layers, inputs)
    for layer in layers:
        if found.params.get(layer.name) != own.params.get(layer.name):
            return layer, (
                f"it has {math.prod(own.params[layer.name][0]):,} weights for the net's own {word}, and takes no other"
            )
    return found
