"""What a rule finds of a layer."""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.layers import Layer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """Shapes of a layer's tops, of its parameters in Caffe's order, and of blobs that are state, not parameters.

    `macs` are its multiply-adds for one entry of the bottoms' first axis (an image, a sequence).
    """

    tops: Sequence[Shape]
    params: Sequence[Shape] = ()
    state: Sequence[Shape] = ()
    macs: int = 0


Rule = Callable[[Layer, "list[Shape]"], Found]


class Untold(Exception):
    """A shape that cannot be told, with the reason."""


def param_of(layer: Layer, name: str) -> prototxt.Message:
    """The layer's own settings; an empty message, that gives the defaults, where it has none."""
    return layer.message.sub(name) or _defaults(name)


@functools.cache
def _defaults(name: str) -> prototxt.Message:
    layer = prototxt.parse(f"layer {{ {name} {{ }} }}", "net").sub("layer")
    settings = layer.sub(name) if layer is not None else None
    assert settings is not None
    return settings


def axis_of(value: object, rank: int, layer: Layer, past_end: bool = False) -> int:
    """An axis counted from the front; a negative one counts from the end. Raises `CaffeSplitError`."""
    axis = int(str(value))
    length = rank + (1 if past_end else 0)
    if not -length <= axis < length:
        raise CaffeSplitError(f"{layer.where}: it works over axis {axis}, but its bottom has {rank} axes.")
    return axis % length


def bottoms_of(layer: Layer, bottoms: Sequence[Shape], count: int, axes: int = 0) -> None:
    """Raises `CaffeSplitError` for fewer bottoms than the type needs, and where one has fewer axes."""
    if len(bottoms) < count:
        raise CaffeSplitError(f"{layer.where}: a {layer.type} needs {count} bottom(s); it has {len(bottoms)}.")
    for bottom in bottoms[:count]:
        if len(bottom) < axes:
            raise CaffeSplitError(f"{layer.where}: a {layer.type} needs {axes} axis(es); its bottom has {len(bottom)}.")


def with_bias(weight: Shape, bias: Shape, has_bias: bool) -> list[Shape]:
    return [weight, bias] if has_bias else [weight]


def size(shape: Sequence[int]) -> int:
    """How many values a blob of that shape holds."""
    return math.prod(shape)
