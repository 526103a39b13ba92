"""What a shape rule finds of a layer, what rules have in common, and the rules of more than one family of types.

A rule gets the layer and the shapes of its bottoms, and gives those of its tops and of its blobs.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from caffe_split.errors import CaffeSplitError, counted
from caffe_split.net.layers import Layer

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Found:
    """Shapes of a layer's tops, of its parameters in Caffe's order, and of blobs that are state, not parameters.

    `macs` are its multiply-adds in one pass over its bottoms. `state_first`: the state comes before the parameters.
    """

    tops: Sequence[Shape]
    params: Sequence[Shape] = ()
    state: Sequence[Shape] = ()
    macs: int = 0
    state_first: bool = False

    @property
    def blobs(self) -> list[Shape]:
        """The shapes of all blobs in Caffe's order."""
        return [*self.state, *self.params] if self.state_first else [*self.params, *self.state]

    @property
    def first_param(self) -> int:
        """The index of the first parameter among all blobs."""
        return len(self.state) if self.state_first else 0


ShapeRule = Callable[[Layer, "list[Shape]"], Found]


class UnknownShapeError(Exception):
    """The shapes of this layer cannot be known; the message is the reason."""


def same(layer: Layer, bottoms: list[Shape]) -> Found:
    """Every top has the shape of the first bottom."""
    need_bottoms(layer, bottoms, 1)
    return Found([bottoms[0]] * len(layer.tops))


def all_same(layer: Layer, bottoms: list[Shape]) -> Found:
    """All bottoms have one shape, and every top has it."""
    need_bottoms(layer, bottoms, 1)
    need_one_shape(layer, bottoms)
    return Found([bottoms[0]] * len(layer.tops))


def scalar(layer: Layer, bottoms: list[Shape]) -> Found:
    """Every top is one number."""
    return Found([()] * len(layer.tops))


def no_tops(layer: Layer, bottoms: list[Shape]) -> Found:
    """It has no top."""
    return Found([])


def axis_of(value: object, rank: int, layer: Layer, past_end: bool = False) -> int:
    """An axis counted from the front; a negative one counts from the end. Raises `CaffeSplitError`."""
    axis = int(str(value))
    length = rank + (1 if past_end else 0)
    if not -length <= axis < length:
        raise CaffeSplitError(f"{layer.where}: it works over axis {axis}, but its bottom has {rank} axes.")
    return axis % length


def need_bottoms(layer: Layer, bottoms: Sequence[Shape], count: int, axes: int = 0) -> None:
    """Raises `CaffeSplitError` for fewer bottoms than the type needs, and where one of these has fewer axes."""
    if len(bottoms) < count:
        raise CaffeSplitError(f"{layer.where}: a {layer.type} needs {counted(count, 'bottom')}; it has {len(bottoms)}.")
    for bottom in bottoms[:count]:
        if len(bottom) < axes:
            raise CaffeSplitError(
                f"{layer.where}: a {layer.type} needs {counted(axes, 'axis', 'axes')}; its bottom has {len(bottom)}."
            )


def need_one_shape(layer: Layer, bottoms: Sequence[Shape]) -> None:
    """Raises `CaffeSplitError` where a bottom has another shape than the first."""
    for bottom in bottoms[1:]:
        if bottom != bottoms[0]:
            raise CaffeSplitError(f"{layer.where}: bottoms of {bottoms[0]} and {bottom}; expected one shape.")


def need_images(layer: Layer, bottoms: Sequence[Shape], count: int) -> None:
    """Raises `CaffeSplitError` for fewer bottoms than the type needs, and where one of these is not (N, C, H, W)."""
    need_bottoms(layer, bottoms, count)
    for bottom in bottoms[:count]:
        if len(bottom) != 4:
            raise CaffeSplitError(f"{layer.where}: a {layer.type} needs a bottom of 4 axes; it has {bottom}.")


def need_options(layer: Layer, name: str) -> None:
    """Raises `CaffeSplitError` where a layer lacks the options without which Caffe refuses it."""
    if not layer.message.has(name):
        raise CaffeSplitError(
            f"{layer.where} is {'an' if layer.type[0] in 'AEIO' else 'a'} {layer.type} without {name}."
        )


def with_bias(weight: Shape, bias: Shape, has_bias: bool) -> list[Shape]:
    """The shapes of a weight and, if there is one, of its bias."""
    return [weight, bias] if has_bias else [weight]
