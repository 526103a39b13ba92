"""What processes that each see a part of the batch can compute: the kinds of blobs, and rules of many types.

A rule gives the kind of a layer's tops from those of its bottoms. A layer whose tops are of no kind, such as one that
mixes records, is refused.
"""

from __future__ import annotations

import enum
from collections.abc import Callable, Mapping, Sequence

from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


class BatchKind(enum.Enum):
    """How the values of a blob in all processes make up its value for the whole batch."""

    EACH = "by record"  # The whole blob is the parts' blobs one after the other.
    SAME = "the same for all"
    MEAN = "a mean over the batch"
    SUM = "a sum over the batch"


EACH, SAME, MEAN, SUM = BatchKind
# The shapes of a layer's bottoms, by name.
Shapes = Mapping[str, tuple[int, ...]]
# Of a layer, the kinds of its bottoms, and their shapes, the kind of all its tops, or a kind for each.
BatchRule = Callable[[Layer, Sequence[BatchKind], Shapes], "BatchKind | list[BatchKind]"]
_OneKind = Callable[[Layer, Sequence[BatchKind], Shapes], BatchKind]


class MixedRecordsError(Exception):
    """Why the tops of a layer are of no kind."""


def source(_layer: Layer, _given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    """A layer that gives records."""
    return EACH


def constant(_layer: Layer, _given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    """A layer whose tops do not depend on the batch."""
    return SAME


def as_first(_layer: Layer, given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    """A layer that passes on the values of its first bottom."""
    return given[0]


def by_record(layer: Layer, given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    """A layer that does the same to each record."""
    if set(given) == {EACH} or set(given) == {SAME}:
        return given[0]
    raise MixedRecordsError(f"its bottoms ({named(layer, given)}) are not all of single records")


def along(message: str, *fields: str) -> _OneKind:
    """The rule of layers that work along an axis: `by_record`, unless that axis is the one of the records.

    `fields` are the names of the axis in the options `message`; the last one that is written counts.
    """

    def rule(layer: Layer, given: Sequence[BatchKind], shapes: Shapes) -> BatchKind:
        options = Options.of(layer.message, message)
        name = fields[-1] if options.has(fields[-1]) else fields[0]
        if EACH in given and is_first(options.get(name), len(shapes[layer.bottoms[0]])):
            raise MixedRecordsError(f"its {name} is that of the records, which it mixes")
        return by_record(layer, given, shapes)

    return rule


def linear(layer: Layer, given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
    """A layer for which the mean of the tops is the top of the means, if all bottoms are of one kind."""
    if len(set(given)) == 1:
        return given[0]
    raise MixedRecordsError(f"its bottoms are of several kinds ({named(layer, given)})")


def is_first(axis: int, rank: int) -> bool:
    """Whether an axis, which may count from the end, is the first of `rank`."""
    return axis in (0, -rank)


def named(layer: Layer, given: Sequence[BatchKind]) -> str:
    """The bottoms of a layer with their kinds in words."""
    return ", ".join(f"'{name}' {kind.value}" for name, kind in zip(layer.bottoms, given))
