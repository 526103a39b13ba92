"""An ONNX model as values: nodes, constants, and the types of its inputs and outputs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Union

import numpy as np

# A number, a text, an array, or a list of numbers.
Attribute = Union[int, float, str, np.ndarray, Sequence[int], Sequence[float]]
# Of each axis its length, a name for one that varies, or None.
Axes = Sequence[Union[int, str, None]]


@dataclass
class Node:
    """An operator: its type, the names of its inputs ('' for one left out) and outputs, its own name and attributes."""

    op: str
    inputs: list[str]
    outputs: list[str]
    name: str
    attributes: dict[str, Attribute] = field(default_factory=dict)


@dataclass(frozen=True)
class ValueType:
    """The type of a value: its name, the NumPy type of its entries, and its axes."""

    name: str
    dtype: np.dtype[Any]
    axes: Axes


@dataclass
class Graph:
    """A graph: nodes in an order in which they can run, constants by name, inputs, outputs, and values between."""

    name: str
    nodes: list[Node]
    constants: dict[str, np.ndarray]
    inputs: list[ValueType]
    outputs: list[ValueType]
    values: list[ValueType] = field(default_factory=list)


@dataclass(frozen=True)
class Model:
    """A graph with the version of its operators, who made it, and metadata (texts by key)."""

    graph: Graph
    opset: int
    producer: tuple[str, str]
    metadata: Mapping[str, str] = field(default_factory=dict)
