"""Where the constant goes that folding leaves after a convolution without bias.

The BatchNorm after the convolution can take it in its mean, and the net keeps its text; where none can, the
convolution gains a bias.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np

from caffe_split.net.graph import Graph, rules
from caffe_split.net.layers import Layer, sharers
from caffe_split.net.state import PHASES
from caffe_split.split.algebra import Array


def absorbing_norm(
    graphs: Sequence[Graph], places: Sequence[tuple[int, int]], blobs: Mapping[str, Sequence[np.ndarray]]
) -> str | None:
    """The BatchNorm layer in whose mean a constant after X can go; None where there is none.

    `places` are X's occurrences, each the graph's number and the index of the layer that writes X's top. The
    BatchNorm has to be the only reader of X's top in all graphs and phases, has to run wherever X runs, and must share
    its parameters with no other layer, which the constant would reach, too.
    """
    names = set()
    for number in {number for number, _ in places}:
        name = _only_reader(graphs[number], [index for other, index in places if other == number])
        if name is None:
            return None
        names.add(name)
    if len(names) != 1:
        return None
    name = names.pop()
    used = {number for number, _ in places}
    if any(graph.named(name) for number, graph in enumerate(graphs) if number not in used):
        return None
    norm = blobs.get(name, ())
    return name if len(norm) == 3 and norm[2].size == 1 and norm[2].reshape(-1)[0] != 0 else None


def _only_reader(graph: Graph, occurrences: Sequence[int]) -> str | None:
    """The name of the BatchNorm that alone reads what X's occurrences in a document write, or None."""
    for top in {graph.layers[index].tops[0] for index in occurrences}:
        fresh = {index for index in graph.writers(top) if top not in graph.layers[index].bottoms}
        if not fresh <= set(occurrences):
            return None  # Its readers read another layer's values, too.
    readers = {reader for index in occurrences for reader in graph.readers(index)}
    found = [graph.layers[index] for index in sorted(readers)]
    if not found or any(layer.type != "BatchNorm" or layer.name != found[0].name for layer in found):
        return None
    if readers != set(graph.named(found[0].name)) or sharers(graph.layers, found[0]):
        return None
    return found[0].name if _run_alike([graph.layers[index] for index in occurrences], found) else None


def _run_alike(ours: Sequence[Layer], theirs: Sequence[Layer]) -> bool:
    """Whether some of `theirs` run whenever some of `ours` do, as far as their rules say without a state."""
    given = {rules(layer) for layer in theirs}
    if () in given or given == {rules(layer) for layer in ours}:
        return True
    return {_only_phase(layer) for layer in theirs} >= set(PHASES)


def _only_phase(layer: Layer) -> str | None:
    """The phase whose whole net the layer is in, and in no other; None where its rules are others."""
    includes = layer.message.subs("include")
    if len(includes) != 1 or layer.message.has("exclude") or [field.name for field in includes[0].fields] != ["phase"]:
        return None
    return str(includes[0].get("phase"))


def shifted(norm: Sequence[np.ndarray], bias: Array) -> list[np.ndarray]:
    """BatchNorm's blobs for an input that lacks `bias` [channels]: Caffe keeps the mean times the third blob."""
    mean = np.asarray(norm[0], dtype=np.float64) - (bias * float(norm[2].reshape(-1)[0])).reshape(norm[0].shape)
    return [mean.astype(np.float32), *norm[1:]]
