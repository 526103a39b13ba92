"""Pieces of the words that pictures have of a layer."""

from __future__ import annotations

from collections.abc import Sequence

from caffe_split.net.layers import Layer


def size(sides: Sequence[int]) -> str:
    """Sides as `3x3`."""
    return "x".join(map(str, sides))


def side(sides: Sequence[int]) -> str:
    """Sides as one number where they are equal, else as `size` has them."""
    return str(sides[0]) if len(set(sides)) == 1 else size(sides)


def tops(layer: Layer) -> list[str]:
    """The line that names the tops of a layer with several."""
    return [f"gives {', '.join(layer.tops)}"] if len(layer.tops) > 1 else []
