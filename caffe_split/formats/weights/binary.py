"""Binary caffemodels: read as views of the mapped file, after one walk over its lengths; written in one go."""

from __future__ import annotations

import contextlib
import mmap
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from caffe_split.errors import CaffeSplitError
from caffe_split.files import write_atomic
from caffe_split.formats.prototxt import proto2
from caffe_split.formats.prototxt.old_types import V0_TYPES, V1_TYPES
from caffe_split.formats.weights import blob as blobs
from caffe_split.formats.weights import wire
from caffe_split.formats.weights.mapped import MAX_BINARY, check_whole, written_anew
from caffe_split.formats.weights.model import Array, Weights

# Bounds on what the index of a file may take; real nets have hundreds of layers with up to ten blobs.
MAX_LAYERS = 100_000
MAX_BLOBS = 4096
MAX_FIELDS = 10_000

# Where a name, a type and the blobs stand in the layers of NetParameter's two fields, and in a V0 layer.
_NAME, _LAYERS_V1, _LAYER = 1, 2, 100


class _Form(NamedTuple):
    name: int
    type: int
    blobs: int


_FORMS = {_LAYER: _Form(1, 2, 7), _LAYERS_V1: _Form(4, 5, 6)}
_V0_LAYER = 1
_V0 = _Form(1, 2, 50)


class _Layer(NamedTuple):
    """One layer of a file: its type and where its message lies (of a V0 layer, the inner message)."""

    type: str
    form: _Form
    start: int
    end: int


class BinaryWeights(Weights):
    """Weights over a mapped binary file: it remembers where the layers lie and holds none of their values."""

    def __init__(self, path: str, buffer: memoryview) -> None:
        self._buffer = buffer
        self._layers: dict[str, _Layer] = {}
        self._net_fields: list[tuple[int, int]] = []
        net_name = self._index(path)
        super().__init__(path, net_name, {name: layer.type for name, layer in self._layers.items()})

    def __getitem__(self, name: str) -> list[Array]:
        layer = self._layers[name]
        with self._unchanged():
            return [blobs.array(self._buffer, blob) for blob in self._blobs(layer)]

    @contextlib.contextmanager
    def _unchanged(self) -> Iterator[None]:
        """The file is as it was indexed; raises `CaffeSplitError` where it is seen not to be."""
        check_whole(self.path, self._buffer)
        try:
            yield
        except (wire.WireError, blobs.BlobError):
            raise written_anew(self.path) from None

    def release(self, name: str) -> None:
        """Give the pages of the mapped file back that hold only this layer; a later look reads them anew."""
        layer, page = self._layers[name], mmap.PAGESIZE
        first, end = -(-layer.start // page) * page, layer.end // page * page
        mapped = self._buffer.obj
        # Other systems than Linux may not have it, or mean something else by it.
        if sys.platform == "linux" and isinstance(mapped, mmap.mmap) and first < end:
            mapped.madvise(mmap.MADV_DONTNEED, first, end - first)

    def _blobs(self, layer: _Layer) -> Iterator[blobs.Blob]:
        for entry in wire.entries(self._buffer, layer.start, layer.end):
            if entry.number == layer.form.blobs and entry.kind == wire.BYTES:
                yield blobs.locate(self._buffer, entry.start, entry.end)

    def other_fields(self, name: str) -> tuple[bytes, list[bytes]]:
        """As bytes: a layer's fields except name, type and weights; and for each of its blobs the unknown fields."""
        layer = self._layers[name]
        own = b""
        with self._unchanged():
            if layer.form is _FORMS[_LAYER]:  # the fields of older layers mean something else in a new one
                own = b"".join(
                    bytes(self._buffer[entry.tag : entry.end])
                    for entry in wire.entries(self._buffer, layer.start, layer.end)
                    if entry.number not in layer.form
                )
            return own, [blobs.extra_fields(self._buffer, blob) for blob in self._blobs(layer)]

    def net_fields(self) -> bytes:
        """The fields of the net except its name and layers, as bytes."""
        check_whole(self.path, self._buffer)
        return b"".join(bytes(self._buffer[start:end]) for start, end in self._net_fields)

    def _index(self, path: str) -> str:
        """Walk the file once: names, types, bounds; every blob is checked, none is read."""
        net_name = ""
        kinds = set()
        try:
            for entry in wire.entries(self._buffer, 0, len(self._buffer)):
                if entry.number in _FORMS and entry.kind == wire.BYTES:
                    kinds.add(entry.number)
                    self._index_layer(path, entry)
                elif entry.number == _NAME and entry.kind == wire.BYTES:
                    net_name = _text(self._buffer, entry)
                elif entry.number == _NAME and entry.kind == wire.VARINT:
                    raise CaffeSplitError(
                        f"{path}: this is a solver state (iteration {entry.value}), not weights; give the "
                        ".caffemodel that was saved with it"
                    )
                elif len(self._net_fields) >= MAX_FIELDS:
                    raise CaffeSplitError(f"{path}: more than {MAX_FIELDS} fields that are no layers")
                else:
                    self._net_fields.append((entry.tag, entry.end))
        except wire.WireError as error:
            again = "; copy or download it again" if begins_as_weights(self._buffer) else ""
            raise CaffeSplitError(f"{path}: not a whole caffemodel: at byte {error.offset}, {error}{again}") from None
        if len(kinds) == 2:
            raise CaffeSplitError(
                f"{path}: holds both old layers (`layers`) and new ones (`layer`); Caffe reads no such file"
            )
        if not kinds:
            raise CaffeSplitError(
                f"{path}: no layer in it: no caffemodel, or one of an empty net; give a .caffemodel or a .caffemodel.h5"
            )
        return net_name

    def _index_layer(self, path: str, entry: wire.Entry) -> None:
        form, start, end = _FORMS[entry.number], entry.start, entry.end
        name = layer_type = ""
        if entry.number == _LAYERS_V1:
            for inner in wire.entries(self._buffer, start, end):
                if inner.number == _V0_LAYER and inner.kind == wire.BYTES:
                    form, start, end = _V0, inner.start, inner.end
        count = 0
        place = f"{path}: a layer at byte {entry.tag}"
        for inner in wire.entries(self._buffer, start, end):
            if inner.number == form.name and inner.kind == wire.BYTES:
                name = _text(self._buffer, inner)
            elif inner.number == form.type:
                if inner.kind == wire.BYTES:
                    layer_type = _text(self._buffer, inner)
                    if form is _V0:
                        layer_type = V1_TYPES.get(V0_TYPES.get(layer_type, ""), layer_type)
                elif inner.kind == wire.VARINT:
                    layer_type = _v1_type(inner.value)
            elif inner.number == form.blobs and inner.kind == wire.BYTES:
                count += 1
                if count > MAX_BLOBS:
                    raise CaffeSplitError(f"{place} has more than {MAX_BLOBS} blobs")
        place = f"{path}: layer {name!r}"
        layer = _Layer(layer_type, form, start, end)
        checked = 0
        try:
            for _ in self._blobs(layer):
                checked += 1
        except blobs.BlobError as error:
            raise CaffeSplitError(f"{place}, blob {checked}: {error}") from None
        if name in self._layers:
            raise CaffeSplitError(f"{place} occurs twice (the second at byte {entry.tag}); names must differ")
        if len(self._layers) >= MAX_LAYERS:
            raise CaffeSplitError(f"{path}: more than {MAX_LAYERS} layers")
        self._layers[name] = layer


def begins_as_weights(buffer: memoryview) -> bool:
    """Whether the bytes are a caffemodel as far as they go: a layer with a name, and with its type or weights."""
    first = None
    try:
        for entry in wire.entries(buffer, 0, len(buffer)):
            if entry.number == _NAME and entry.kind == wire.VARINT:
                return False  # a solver state's iteration
            if first is None and entry.number in _FORMS and entry.kind == wire.BYTES:
                first = _FORMS[entry.number], entry.start, entry.end
    except wire.WireError as error:
        if first is None:  # the first layer itself is cut short: its fields stand behind its tag and its length
            try:
                tag, position = wire.varint(buffer, error.offset, len(buffer))
                position = wire.varint(buffer, position, len(buffer))[1]
            except wire.WireError:
                return False
            if tag & 7 != wire.BYTES or tag >> 3 not in _FORMS:
                return False
            first = _FORMS[tag >> 3], position, len(buffer)
    if first is None:
        return False
    form, start, end = first
    found = []
    with contextlib.suppress(wire.WireError):
        for inner in wire.entries(buffer, start, end):
            found.append(inner.number)
    if form is _FORMS[_LAYERS_V1] and found[:1] == [_V0_LAYER]:
        return True
    return form.name in found and (form.type in found or form.blobs in found)


def write_binary(
    name: str, weights: Mapping[str, Sequence[Any]], net_name: str, types: Mapping[str, str], like: Weights | None
) -> None:
    """Write a binary caffemodel, whole or not at all.

    If `like` is a binary file too, its other fields are kept: those of the net, and of layers with the same name.
    Raises `CaffeSplitError` when it would pass 2 GB, and when `weights` lack what a layer shares with an earlier one.
    """
    if isinstance(weights, Weights) and weights.shared:
        layer, count = next(iter(weights.shared.items()))
        raise CaffeSplitError(
            f"{name}: {weights.path} lacks blobs of layer {layer!r} ({count}), which it shares with "
            "another layer, and a binary caffemodel holds all; put them in, leave the layer out, or write HDF5"
        )
    source = like if isinstance(like, BinaryWeights) else None

    head = wire.encode_bytes(_NAME, net_name.encode("utf-8", "surrogateescape")) if net_name else b""
    heads = []
    total = len(head)
    for layer in weights:
        heads.append(_LayerHead(layer, types.get(layer, ""), weights[layer], source))
        total += heads[-1].total
    tail = source.net_fields() if source else b""
    total += len(tail)
    if total > MAX_BINARY:
        raise CaffeSplitError(
            f"{name}: the model would take {total} bytes, and a binary caffemodel holds at most "
            f"{MAX_BINARY}; write it as HDF5: {name}.h5"
        )

    def pieces() -> Iterator[bytes | memoryview]:
        yield head
        for layer in heads:
            yield from layer.pieces(weights[layer.name])
        yield tail

    write_atomic(name, pieces())


class _LayerHead:
    """The bytes around a layer's values. Made before any layer is written: a length precedes what it counts."""

    def __init__(self, name: str, layer_type: str, arrays: Sequence[Any], source: BinaryWeights | None) -> None:
        self.name = name
        own, extras = source.other_fields(name) if source is not None and name in source else (b"", [])
        self.around: list[tuple[bytes, bytes]] = []
        body = 0
        for index, array in enumerate(arrays):
            values = blobs.as_array(array, f"layer {name!r}, blob {index}")
            before, behind = blobs.head(values, extras[index] if index < len(extras) else b"")
            size = len(before) + values.size * 4 + len(behind)
            before = wire.encode_tag(_FORMS[_LAYER].blobs, wire.BYTES) + wire.encode_varint(size) + before
            self.around.append((before, behind))
            body += len(before) + values.size * 4 + len(behind)
        self.start = wire.encode_bytes(1, name.encode("utf-8", "surrogateescape"))
        if layer_type:
            self.start += wire.encode_bytes(2, layer_type.encode("utf-8", "surrogateescape"))
        self.end = own
        body += len(self.start) + len(self.end)
        self.start = wire.encode_tag(_LAYER, wire.BYTES) + wire.encode_varint(body) + self.start
        self.total = body + len(wire.encode_tag(_LAYER, wire.BYTES) + wire.encode_varint(body))

    def pieces(self, arrays: Sequence[Any]) -> Iterator[bytes | memoryview]:
        yield self.start
        for (before, behind), array in zip(self.around, arrays):
            yield before
            yield from blobs.little_endian(array)
            yield behind
        yield self.end


def _v1_type(number: int) -> str:
    known = proto2.caffe().enums["V1LayerParameter.LayerType"].name_of(number)
    return V1_TYPES.get(known or "", "")


def _text(buffer: memoryview, entry: wire.Entry) -> str:
    return bytes(buffer[entry.start : entry.end]).decode("utf-8", "surrogateescape")
