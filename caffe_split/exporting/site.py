"""What the exporters of layer types work with: values with their sizes, and the graph under construction."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Union

import numpy as np

from caffe_split.formats.onnx.graph import Attribute, Node
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

# An input of an operator: the name of a value, or a constant.
Operand = Union[str, np.ndarray]


class CannotExpressError(Exception):
    """A layer that ONNX's operators do not compute as Caffe does; the message is the reason, a clause."""


@dataclass(frozen=True)
class Value:
    """A value of the graph: its name and, of each axis, its length for each set of input sizes, the net's own first."""

    name: str
    axes: tuple[tuple[int, ...], ...]

    @property
    def shape(self) -> tuple[int, ...]:
        """The lengths for the net's own input sizes."""
        return tuple(lengths[0] for lengths in self.axes)

    @property
    def rank(self) -> int:
        """The number of axes."""
        return len(self.axes)

    def is_fixed(self, first: int = 0, last: int | None = None) -> bool:
        """Whether the lengths of the axes from `first` to before `last` are the same for all input sizes."""
        return all(len(set(lengths)) == 1 for lengths in self.axes[first:last])


@dataclass
class Builder:
    """The graph under construction, for operators of the version `opset`."""

    opset: int
    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    # Constants that stay float32 in a model of half precision.
    exact: set[str] = field(default_factory=set)
    # Name of a value -> the node that computes it.
    makers: dict[str, Node] = field(default_factory=dict)
    names: set[str] = field(default_factory=set)
    node_names: set[str] = field(default_factory=set)

    def unique(self, name: str, taken: set[str] | None = None) -> str:
        """The name of a value (or among `taken`), with a number behind it if it is taken; it is taken then."""
        taken = self.names if taken is None else taken
        found, number = name, 2
        while found in taken:
            found, number = f"{name}_{number}", number + 1
        taken.add(found)
        return found

    def add(self, node: Node) -> None:
        """Append a node."""
        self.nodes.append(node)
        self.makers.update(dict.fromkeys(node.outputs, node))


@dataclass
class Site:
    """One layer's place in the graph.

    Attributes:
        to: the graph.
        layer: the layer.
        bottoms: its bottoms.
        tops: its tops, with the names that they are to have.
        blobs: (name, array) of each of its blobs, in Caffe's shapes; the name is the owner's for a shared one.
        sole: for each bottom whether no other layer reads the value, and it is no output.
        training: whether it computes as in the TRAIN phase: by the phase of the net, or by one of its own.
        same: index of a top -> the name of the value that it is, for tops that need no operator.
    """

    to: Builder
    layer: Layer
    bottoms: list[Value]
    tops: list[Value]
    blobs: list[tuple[str, np.ndarray]]
    sole: list[bool]
    training: bool = False
    same: dict[int, str] = field(default_factory=dict)

    @property
    def x(self) -> str:
        """The name of the first bottom."""
        return self.bottoms[0].name

    def options(self, name: str) -> Options:
        """The layer's options of that name, e.g. `convolution_param`."""
        return Options.of(self.layer.message, name)

    def axis(self, axis: object, rank: int | None = None) -> int:
        """An axis of the first bottom, counted from the front."""
        return int(str(axis)) % (self.bottoms[0].rank if rank is None else rank)

    def blob(self, index: int, form: np.ndarray | None = None) -> str:
        """The constant of a blob, as it is or in another form; a new one where another layer has it in another form."""
        name, array = self.blobs[index]
        wanted = array if form is None else form
        held = self.to.constants.setdefault(name, wanted)
        return name if held is wanted or np.array_equal(held, wanted) else self.constant("shared", wanted)

    def constant(self, step: str, array: np.ndarray | Sequence[int], exact: bool = False) -> str:
        """A new constant; a list is one of whole numbers. exact: float32 also in a model of half precision."""
        name = self.to.unique(f"{self.layer.name}/{step}")
        self.to.constants[name] = array if isinstance(array, np.ndarray) else np.array(array, np.int64)
        if exact:
            self.to.exact.add(name)
        return name

    def number(self, value: float, step: str = "value") -> str:
        """A new constant of one float32 number without axes."""
        return self.constant(step, np.array(value, np.float32))

    def op(
        self, op: str, inputs: Iterable[str], top: int | None = None, outputs: int = 1, **attributes: Attribute
    ) -> str:
        """An operator; returns the name of its first output, which is top number `top`, or a value between."""
        name = self.layer.name if top is not None else f"{self.layer.name}/{op}"
        node = Node(op, list(inputs), [], self.to.unique(name, self.to.node_names), dict(attributes))
        for number in range(outputs):
            node.outputs.append(self.tops[top + number].name if top is not None else self.to.unique(name))
        self.to.add(node)
        return node.outputs[0]

    def chain(self, steps: Sequence[tuple[str, Sequence[str]]], top: int = 0) -> str:
        """Operators one after another on the first bottom, each with further inputs; the last one gives the top."""
        value = self.x
        for number, (op, more) in enumerate(steps):
            value = self.op(op, [value, *more], top if number == len(steps) - 1 else None)
        if not steps:
            self.same[top] = value
        return value

    def reshape(self, value: str, given: Value | None, like: Value, top: int | None = None) -> str:
        """The value `value`, whose axes are those of `given`, in the axes of `like`.

        None for `given`: the value has other axes, and none of `like` can be one of them. Raises `CannotExpressError`
        where two or more axes vary that are no axes of the value at the same places.
        """
        lengths = []
        for place, axis in enumerate(like.axes):
            if len(set(axis)) == 1:
                lengths.append(axis[0])
            elif given is not None and place < given.rank and given.axes[place] == axis:
                lengths.append(0)
            else:
                lengths.append(-1)
        if lengths.count(-1) > 1:
            raise CannotExpressError("more than one of its axes would vary")
        # 0 copies an axis; an axis of length 0 is no axis of a net.
        return self.op("Reshape", [value, self.constant("shape", lengths)], top)

    def as_bottom(self, value: str, top: int | None = None) -> str:
        """The value `value`, which has as many numbers as the first bottom, in the first bottom's axes."""
        if sum(len(set(axis)) > 1 for axis in self.bottoms[0].axes) < 2:
            return self.reshape(value, None, self.bottoms[0], top)
        return self.op("Reshape", [value, self.op("Shape", [self.x])], top)

    def reduce(self, op: str, value: str, axes: Sequence[int], top: int | None = None, keepdims: bool = True) -> str:
        """A reduction over axes, which are an input since version 18 (ReduceSum: 13), an attribute before."""
        keep = int(keepdims)
        if self.to.opset >= (13 if op == "ReduceSum" else 18):
            return self.op(op, [value, self.constant("axes", axes)], top, keepdims=keep)
        return self.op(op, [value], top, axes=list(axes), keepdims=keep)

    def pad_axes(self, value: str, count: int) -> str:
        """The value with `count` axes of length 1 behind its own `rank`; the value itself for 0."""
        if not count:
            return value
        return self.op("Unsqueeze", [value, self.constant("axes", [-1 - place for place in range(count)][::-1])])


Exporter = Callable[[Site], None]
