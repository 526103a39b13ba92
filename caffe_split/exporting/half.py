"""A graph that computes in half precision, and takes and gives float32."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import replace

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.onnx.graph import Graph, Node

_FLOAT, _INT64, _HALF = 1, 7, 10
_DTYPE = np.dtype(np.float16)
# Operations of whose inputs the first ones are float32 in any model.
_FLOATS = {"NonMaxSuppression": 2}


def halved(graph: Graph, exact: Collection[str]) -> Graph:
    """The graph with float16 constants and values, except the constants `exact`, and what takes float32 alone.

    Inputs that are whole numbers (of Embed) are read as they are. Raises `CaffeSplitError` for constants beyond the
    largest float16.
    """
    constants = {name: _half(name, array, exact) for name, array in graph.constants.items()}
    taken = {*constants, *(name for node in graph.nodes for name in (*node.inputs, *node.outputs))}

    def fresh(name: str) -> str:
        while name in taken:
            name += "_"
        taken.add(name)
        return name

    inputs = {given.name: fresh(f"{given.name}/half") for given in graph.inputs}
    # An output that is an input is given back as it came.
    outputs = {given.name: fresh(f"{given.name}/half") for given in graph.outputs if given.name not in inputs}
    nodes = [Node("Cast", [name], [half], half, {"to": _HALF}) for name, half in inputs.items()]
    for node in graph.nodes:
        attributes = dict(node.attributes)
        whole = node.op == "Cast" and attributes["to"] == _INT64
        if node.op == "Cast" and attributes["to"] == _FLOAT:
            attributes["to"] = _HALF
        if node.op == "ConstantOfShape":
            attributes["value"] = np.asarray(attributes["value"], np.float16)
        given = [
            name if whole and name in inputs else inputs.get(name, outputs.get(name, name)) for name in node.inputs
        ]
        if node.op in _FLOATS:
            for place in range(_FLOATS[node.op]):
                exactly = fresh(f"{given[place]}/float")
                nodes.append(Node("Cast", [given[place]], [exactly], exactly, {"to": _FLOAT}))
                given[place] = exactly
        made = [outputs.get(name, name) for name in node.outputs]
        nodes.append(Node(node.op, given, made, node.name, attributes))
    nodes += [Node("Cast", [half], [name], f"{name}/float", {"to": _FLOAT}) for name, half in outputs.items()]
    values = [replace(value, dtype=_DTYPE) for value in graph.values]
    return replace(graph, nodes=nodes, constants=constants, values=values)


def _half(name: str, array: np.ndarray, exact: Collection[str]) -> np.ndarray:
    if array.dtype != np.float32 or name in exact:
        return array
    with np.errstate(over="ignore"):
        found = array.astype(np.float16)
    if not np.isfinite(found).all():
        raise CaffeSplitError(
            f"--half: constant '{name}' holds {np.abs(array).max():g}; the largest value of half precision is 65504."
        )
    return found
