"""What is fuzzed: each target takes any bytes and must give a value or one CaffeSplitError."""

from __future__ import annotations

import atexit
import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import check, proto2
from caffe_split.formats.prototxt.tree import Message
from caffe_split.formats.prototxt.upgrade import upgrade
from caffe_split.formats.weights import caffemodel

_FOLDER = tempfile.mkdtemp(prefix="fuzz-")
atexit.register(shutil.rmtree, _FOLDER, ignore_errors=True)


def fuzz_prototxt(data: bytes) -> None:
    """Parse, round-trip, read every value, check, edit and upgrade."""
    try:
        doc = prototxt.parse(data)
    except CaffeSplitError:
        return
    assert doc.to_bytes() == data
    _read_all(doc)
    check.problems(doc)
    assert doc.copy().to_bytes() == data
    for field in doc.fields:
        if field.message is not None:
            inner = str(doc.inner(field.message))
            assert str(prototxt.parse(inner)) == inner
    for field in doc.fields[:3]:
        copy = field.copy()
        doc.insert_before(field, copy)
        doc.insert_after(field, copy.copy())
        doc.remove(field)
        if copy.message is not None:
            added = copy.message.add("any_name", "x")
            assert added.values() == ["x"] and copy.message.get("any_name") == "x"
    text = str(doc)
    assert str(prototxt.parse(text)) == text, text
    try:
        upgrade(doc)
    except CaffeSplitError:
        return
    text = str(doc)
    assert str(prototxt.parse(text)) == text, text


def _read_all(message: Message) -> None:
    for field in message.fields:
        try:
            for value in field.values():
                if isinstance(value, Message):
                    _read_all(value)
        except CaffeSplitError:
            pass


def _file(data: bytes) -> str:
    path = os.path.join(_FOLDER, "input")
    with open(path, "wb") as stream:
        stream.write(data)
    return path


def fuzz_caffemodel(data: bytes) -> None:
    """Read all weights, write them again, and read that."""
    if data.startswith(b"\x89HDF"):
        return  # see fuzz_hdf5
    try:
        weights = caffemodel.read_weights(_file(data))
    except CaffeSplitError:
        return
    values = sum(array.size for name in weights for array in weights[name])
    assert values * 4 <= len(data), "more values than the file has bytes for"
    other = os.path.join(_FOLDER, "output")
    caffemodel.write_weights(other, weights)
    again = caffemodel.read_weights(other)
    for name in weights:
        for left, right in zip(weights[name], again[name]):
            assert left.tobytes() == right.tobytes() and left.shape == right.shape


def fuzz_solverstate(data: bytes) -> None:
    """Read a solver state, write it again, and read that."""
    if data.startswith(b"\x89HDF"):
        return
    try:
        state = caffemodel.read_solverstate(_file(data))
    except CaffeSplitError:
        return
    other = os.path.join(_FOLDER, "output")
    caffemodel.write_solverstate(other, state)
    again = caffemodel.read_solverstate(other)
    assert (state.iter, state.learned_net, state.current_step) == (again.iter, again.learned_net, again.current_step)
    assert [a.tobytes() for a in state.history] == [a.tobytes() for a in again.history]


def fuzz_hdf5(data: bytes) -> None:
    """Read weights and a solver state in HDF5: what its library makes of damage must come as our one error."""
    if not data.startswith(b"\x89HDF"):
        return
    for read in (caffemodel.read_weights, caffemodel.read_solverstate):
        path = _file(data)
        with contextlib.suppress(CaffeSplitError):
            found = read(path)
            if isinstance(found, caffemodel.Weights):
                for name in found:
                    found[name]
        os.unlink(path)  # the library would take a file of the same inode for one that it has open


def fuzz_proto(data: bytes) -> None:
    """Read a schema."""
    with contextlib.suppress(CaffeSplitError):
        proto2.parse(data.decode("utf-8", "surrogateescape"))


TARGETS: dict[str, Callable[[bytes], None]] = {
    "prototxt": fuzz_prototxt,
    "caffemodel": fuzz_caffemodel,
    "solverstate": fuzz_solverstate,
    "hdf5": fuzz_hdf5,
    "proto": fuzz_proto,
}
