"""Whether processes that each see a part of the batch can compute what one process computes of the whole batch.

A blob is one of four kinds, which `layertypes.batch_rules` describes; the record of each layer type has its
rule. Layers that mix records are refused, all at once.
"""

from __future__ import annotations

from collections.abc import Sequence

from caffe_split.engine.spec.support import Problem
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.batch_rules import EACH, BatchKind, MixedRecordsError, Shapes
from caffe_split.layertypes.table import record_for
from caffe_split.net.layers import Layer


class NotSharedError(CaffeSplitError):
    """Several processes cannot compute what one does."""


def kinds_of(document: prototxt.Document, layers: Sequence[Layer], shapes: Sequence[Shapes]) -> list[list[BatchKind]]:
    """The kinds of each layer's tops. `shapes` gives the shapes of each layer's bottoms, by name.

    Raises `NotSharedError` with everything that several processes cannot compute, one line each.
    """
    now: dict[str, BatchKind] = {}
    found: list[list[BatchKind]] = []
    problems: list[Problem] = []
    for layer, known in zip(layers, shapes):
        given = [now.get(name, EACH) for name in layer.bottoms]
        kinds: BatchKind | list[BatchKind] = EACH
        try:
            rule = record_for(layer).batch
            if rule is None:
                raise MixedRecordsError(f"type {layer.type} is not handled there")
            kinds = rule(layer, given, known)
        except MixedRecordsError as reason:
            problems.append(Problem(document.filename, layer.field.line, f"layer '{layer.name}': {reason}"))
        found.append(kinds if isinstance(kinds, list) else [kinds] * len(layer.tops))
        now.update(zip(layer.tops, found[-1]))
    if problems:
        listed = "".join(f"\n  {problem.file}:{problem.line}: {problem.text}" for problem in problems)
        raise NotSharedError(
            f"several processes cannot share the batch of {document.filename}; one process trains it:{listed}"
        )
    return found
