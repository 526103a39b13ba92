"""Writing ONNX models, with the `onnx` package for everything except the weights.

A model is a protobuf message, and repeated fields of a message may follow each other in pieces: the weights are
appended to the rest as they lie in memory, so that none is copied. Protobuf would hold all of them three times.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.onnx.graph import Graph, Model, Node, ValueType

if TYPE_CHECKING:
    from collections.abc import Iterable

# Protobuf's own limit on a message. Models of more keep their weights in a second file.
MOST_BYTES = 2**31 - 1
# In a file beside the model each tensor begins at a multiple of this, so that it can be mapped.
_ALIGNMENT = 4096
# Numbers of fields in onnx.proto: GraphProto.initializer, ModelProto.graph, TensorProto.raw_data.
_INITIALIZER, _GRAPH, _RAW_DATA = 5, 7, 9


def require_onnx() -> Any:
    """The `onnx` package. Raises `CaffeSplitError` where it is not installed."""
    try:
        import onnx
    except ImportError:
        raise CaffeSplitError(
            "ONNX models need the package onnx, which is not in this environment: pip install onnx"
        ) from None
    return onnx


def newest_opset() -> int:
    """The newest version of ONNX's operators that the installed package knows."""
    return int(require_onnx().defs.onnx_opset_version())


def check(model: Model) -> None:
    """Raises `CaffeSplitError` where the model is not valid ONNX, as the package's own checker judges it with shapes.

    Large constants are shown to it as inputs, so that it does not copy them.
    """
    onnx = require_onnx()
    graph = model.graph
    large = {name: array for name, array in graph.constants.items() if array.size > 64}
    given = [ValueType(name, array.dtype, array.shape) for name, array in large.items()]
    small = {name: array for name, array in graph.constants.items() if name not in large}
    message = _head(replace(model, graph=replace(graph, constants={}, inputs=[*graph.inputs, *given])))
    for name, array in small.items():
        tensor = _tensor_head(name, array)
        tensor.raw_data = np.ascontiguousarray(array).tobytes()
        message.graph.initializer.append(tensor)
    try:
        onnx.checker.check_model(message, full_check=True)
    except (onnx.checker.ValidationError, onnx.shape_inference.InferenceError) as error:
        said = " ".join(str(error).split())
        raise CaffeSplitError(f"the model is not valid ONNX, which is a fault of the export: {said}") from error


def size_of(model: Model) -> int:
    """Bytes of all constants."""
    return sum(array.nbytes for array in model.graph.constants.values())


def pieces(model: Model, data_file: str = "") -> Iterator[bytes | memoryview]:
    """The bytes of a model file, piece by piece; with `data_file`, its weights are in that file beside it."""
    head = _head(model)
    graph = head.graph.SerializeToString()
    head.ClearField("graph")
    tensors = list(_external(model.graph, data_file) if data_file else _internal(model.graph))
    length = len(graph) + sum(_length(parts) for parts in tensors)
    yield head.SerializeToString()
    yield _tag(_GRAPH, length)
    yield graph
    for parts in tensors:
        yield from parts


def data_pieces(model: Model) -> Iterator[bytes | memoryview]:
    """The bytes of the file with a model's weights, piece by piece."""
    for array in model.graph.constants.values():
        yield _bytes(array)
        yield bytes(-array.nbytes % _ALIGNMENT)


def _internal(graph: Graph) -> Iterator[list[bytes | memoryview]]:
    for name, array in graph.constants.items():
        head = _tensor_head(name, array).SerializeToString()
        raw = _tag(_RAW_DATA, array.nbytes)
        yield [_tag(_INITIALIZER, len(head) + len(raw) + array.nbytes), head, raw, _bytes(array)]


def _external(graph: Graph, data_file: str) -> Iterator[list[bytes | memoryview]]:
    onnx = require_onnx()
    offset = 0
    for name, array in graph.constants.items():
        tensor = _tensor_head(name, array)
        tensor.data_location = onnx.TensorProto.EXTERNAL
        for key, value in (("location", data_file), ("offset", offset), ("length", array.nbytes)):
            tensor.external_data.add(key=key, value=str(value))
        offset += array.nbytes + -array.nbytes % _ALIGNMENT
        head = tensor.SerializeToString()
        yield [_tag(_INITIALIZER, len(head)), head]


def _length(parts: Iterable[bytes | memoryview]) -> int:
    return sum(part.nbytes if isinstance(part, memoryview) else len(part) for part in parts)


def _bytes(array: np.ndarray) -> memoryview:
    """The entries of an array in ONNX's order: little-endian, row by row."""
    plain = np.ascontiguousarray(array, array.dtype.newbyteorder("<"))
    return plain.reshape(-1).view(np.uint8).data


def _tag(field: int, length: int) -> bytes:
    """The tag of a field of bytes, and their number."""
    out = bytearray([field << 3 | 2])
    while length >= 0x80:
        out.append(length & 0x7F | 0x80)
        length >>= 7
    out.append(length)
    return bytes(out)


def _tensor_head(name: str, array: np.ndarray) -> Any:
    """A TensorProto without values."""
    onnx = require_onnx()
    return onnx.TensorProto(name=name, dims=array.shape, data_type=_kind(array.dtype))


def _kind(dtype: np.dtype[Any]) -> int:
    return int(require_onnx().helper.np_dtype_to_tensor_dtype(dtype))


def _head(model: Model) -> Any:
    """The ModelProto without constants."""
    onnx = require_onnx()
    opsets = [onnx.helper.make_opsetid("", model.opset)]
    graph = model.graph
    message = onnx.helper.make_model(
        onnx.helper.make_graph(
            [_node(node) for node in graph.nodes],
            graph.name or "net",
            _types(graph.inputs),
            _types(graph.outputs),
            value_info=_types(graph.values),
        ),
        opset_imports=opsets,
        ir_version=onnx.helper.find_min_ir_version_for(opsets),
        producer_name=model.producer[0],
        producer_version=model.producer[1],
    )
    onnx.helper.set_model_props(message, dict(model.metadata))
    return message


def _node(node: Node) -> Any:
    return require_onnx().helper.make_node(
        node.op, node.inputs, node.outputs, name=node.name, **{key: _plain(v) for key, v in node.attributes.items()}
    )


def _plain(value: Any) -> Any:
    """An attribute as `onnx.helper` takes it."""
    if isinstance(value, np.ndarray):
        return require_onnx().numpy_helper.from_array(value)
    return list(value) if isinstance(value, tuple) else value


def _types(values: Sequence[ValueType]) -> list[Any]:
    helper = require_onnx().helper
    return [helper.make_tensor_value_info(value.name, _kind(value.dtype), list(value.axes)) for value in values]
