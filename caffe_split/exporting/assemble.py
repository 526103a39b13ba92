"""A net's layers as one graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np

from caffe_split.exporting.site import Builder, CannotExpressError, Site, Value
from caffe_split.exporting.sizes import VARYING, Sizes
from caffe_split.exporting.table import CANNOT, EXPORTERS
from caffe_split.exporting.transform import Transform
from caffe_split.formats.onnx.graph import Graph, Node, ValueType
from caffe_split.layertypes.inputs import is_source
from caffe_split.layertypes.table import record_of
from caffe_split.net.layers import Layer

Blobs = Mapping[str, Sequence[np.ndarray]]
FLOAT = np.dtype(np.float32)


@dataclass
class Assembly:
    """A graph under construction from a net's layers.

    Attributes:
        layers: the net, without losses, with inputs for data.
        sizes: of its blobs.
        blobs: layer -> its parameters and state.
        opset: the version of the operators.
        varying: what varies: batch, height, width, in the order of the sizes' probes behind the first.
        wanted: blobs that are outputs beside those that no layer reads.
        transforms: by input, what its data go through first.
        problems: layers that cannot be expressed, and why.
        phase: of the net; a layer may have its own.
        renamed: outputs that cannot have the name of their blob, since an input has it, by name: the blob.
    """

    layers: Sequence[Layer]
    sizes: Sizes
    blobs: Blobs
    opset: int
    varying: Sequence[str] = ()
    wanted: Sequence[str] = ()
    transforms: Mapping[str, Transform] = field(default_factory=dict)
    phase: str = "TEST"
    problems: list[tuple[Layer, str]] = field(default_factory=list)
    renamed: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.to = Builder(self.opset)
        self.to.names.update(top for layer in self.layers for top in layer.tops)
        self.values: dict[str, Value] = {}
        self.inputs: list[ValueType] = []
        # Name of a param, or (layer, index) -> name and array of the constant.
        self._owned: dict[object, tuple[str, np.ndarray]] = {}
        self.outputs = self._outputs()
        self._readers = self._count_readers()

    def _outputs(self) -> list[str]:
        """The blobs that no layer reads, and the wanted ones, in the net's order."""
        free: dict[str, None] = {}
        for layer in self.layers:
            for bottom in layer.bottoms:
                free.pop(bottom, None)
            if not is_source(layer):
                free.update(dict.fromkeys(layer.tops))
        return list(dict.fromkeys([*free, *self.wanted]))

    def _count_readers(self) -> dict[tuple[str, int], int]:
        """(blob, index of the layer that wrote it) -> how many layers read it so; an output counts as one more."""
        writer: dict[str, int] = {}
        count: dict[tuple[str, int], int] = {}
        for index, layer in enumerate(self.layers):
            for bottom in layer.bottoms:
                key = (bottom, writer.get(bottom, -1))
                count[key] = count.get(key, 0) + 1
            writer.update(dict.fromkeys(layer.tops, index))
        for name in self.outputs:
            key = (name, writer.get(name, -1))
            count[key] = count.get(key, 0) + 1
        return count

    # -- layers

    def run(self, name: str) -> Graph:
        """The graph of all layers. What cannot be expressed is in `problems` then, and the graph is of no use."""
        writer: dict[str, int] = {}
        for index, layer in enumerate(self.layers):
            if layer.name in self.sizes.probes[0].unknown:
                reason = CANNOT.get(layer.type) or self.sizes.probes[0].unknown[layer.name]
                if not any(bottom not in self.values for bottom in layer.bottoms):
                    self.problems.append((layer, reason))
            elif layer.type == "Input":
                self._input(layer)
            elif all(bottom in self.values for bottom in layer.bottoms):
                sole = [self._readers.get((bottom, writer.get(bottom, -1)), 0) == 1 for bottom in layer.bottoms]
                self._layer(layer, sole)
            writer.update(dict.fromkeys(layer.tops, index))
        if self.problems:
            return Graph(name, [], {}, [], [])
        return self._graph(name)

    def _layer(self, layer: Layer, sole: list[bool]) -> None:
        exporter = EXPORTERS.get(layer.type)
        if exporter is None:
            reason = CANNOT.get(layer.type, "there are no operators for it here")
            self.problems.append((layer, f"type {layer.type} is not expressed: {reason}"))
            return
        tops = [
            Value(self.to.unique(f"{top}/{layer.name}"), axes) for top, axes in zip(layer.tops, self.sizes.tops(layer))
        ]
        bottoms = [self.values[bottom] for bottom in layer.bottoms]
        training = layer.phase_in(self.phase) == "TRAIN"
        site = Site(self.to, layer, bottoms, tops, self._blobs_of(layer), sole, training)
        try:
            exporter(site)
        except CannotExpressError as reason:
            self.problems.append((layer, f"{reason}"))
        for index, (blob, top) in enumerate(zip(layer.tops, tops)):
            self.values[blob] = Value(site.same.get(index, top.name), top.axes)

    def _blobs_of(self, layer: Layer) -> list[tuple[str, np.ndarray]]:
        shapes, names = self.sizes.blobs(layer), layer.param_names()
        arrays = self.blobs.get(layer.name, ())
        found = []
        for index, shape in enumerate(shapes):
            key: object = names[index] if index < len(names) and names[index] else (layer.name, index)
            if key not in self._owned:
                name = self.to.unique(f"{layer.name}.{record_of(layer.type).blob_name(index)}")
                self._owned[key] = name, np.asarray(arrays[index], np.float32)
            name, array = self._owned[key]
            found.append((name, array.reshape(shape)))
        return found

    def _input(self, layer: Layer) -> None:
        for top, axes in zip(layer.tops, self.sizes.tops(layer)):
            value = Value(top, axes)
            self.inputs.append(ValueType(top, FLOAT, self._axes(value, is_input=True)))
            transform = self.transforms.get(top)
            self.values[top] = Value(transform.add(self.to, value), axes) if transform is not None else value

    # -- the whole

    def _axes(self, value: Value, is_input: bool = False) -> list[int | str | None]:
        """The axes of a value: lengths, the names of those that vary as an input's do, None for others that vary."""
        found: list[int | str | None] = []
        for place, lengths in enumerate(value.axes):
            if len(set(lengths)) == 1:
                found.append(lengths[0])
                continue
            word = next((word for word, (axis, _) in zip(self.varying, self._places()) if axis == place), None)
            found.append(word if word and (is_input or self._as_input(lengths, place)) else None)
        return found

    def _places(self) -> list[tuple[int, int]]:
        return [VARYING[word] for word in self.varying]

    def _as_input(self, lengths: tuple[int, ...], place: int) -> bool:
        shapes = [tuple(shapes.values()) for shapes in self.sizes.inputs]
        return any(
            all(place < len(shape) and shape[place] == length for shape, length in zip(same, lengths))
            for same in zip(*shapes)
        )

    def _graph(self, name: str) -> Graph:
        self._name_blobs()
        outputs = [ValueType(self._output(blob), FLOAT, self._axes(self.values[blob])) for blob in self.outputs]
        read = {given for node in self.to.nodes for given in node.inputs}
        constants = {key: array for key, array in self.to.constants.items() if key in read}
        known = {*(output.name for output in outputs), *(given.name for given in self.inputs), *constants}
        values = {
            value.name: ValueType(value.name, FLOAT, self._axes(value))
            for value in self.values.values()
            if value.name not in known
        }
        read.update(output.name for output in outputs)
        inputs = [given for given in self.inputs if given.name in read]
        return Graph(name, self.to.nodes, constants, inputs, outputs, list(values.values()))

    def _output(self, blob: str) -> str:
        """The name of the output that is a blob: the blob's, except where an input has it.

        That is so where a layer in place, or the transform, makes another value of an input.
        """
        value = self.values[blob]
        if value.name == blob:
            return blob
        taken = any(given.name == blob for given in self.inputs)
        name = self.to.unique(f"{blob}/out") if taken else blob
        if taken:
            self.renamed[name] = blob
        # It may be another blob, too, as behind a Dropout.
        self.to.add(Node("Identity", [value.name], [name], self.to.unique(name, self.to.node_names)))
        return name

    def _name_blobs(self) -> None:
        """Give the last value of each blob its name, where that is not taken by the input or by another blob."""
        fixed = {*(given.name for given in self.inputs), *self.to.constants}
        new: dict[str, str] = {}
        for blob, value in self.values.items():
            if value.name not in fixed and blob not in fixed:
                new.setdefault(value.name, blob)
        for node in self.to.nodes:
            node.inputs = [new.get(given, given) for given in node.inputs]
            node.outputs = [new.get(made, made) for made in node.outputs]
        self.values = {blob: Value(new.get(value.name, value.name), value.axes) for blob, value in self.values.items()}
