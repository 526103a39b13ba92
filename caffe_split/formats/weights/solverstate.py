"""Solver states (.solverstate and .solverstate.h5): where a training stood, and the solver's history.

Binary: SolverState with iter = 1, learned_net = 2, history = 3 (BlobProto), current_step = 4. HDF5: the
data sets /iter, /learned_net, /current_step and /history/0, /history/1, ...
"""

from __future__ import annotations

import contextlib
import itertools
import os
from collections.abc import Iterator

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, write_atomic
from caffe_split.formats.weights import blob as blobs
from caffe_split.formats.weights import hdf5, lookalikes, wire
from caffe_split.formats.weights.mapped import MAX_BINARY, head_of, map_file
from caffe_split.formats.weights.model import SolverState

__all__ = ["SolverState", "read_solverstate", "write_solverstate"]

MAX_HISTORY = 100_000
MAX_UNKNOWN = 10_000

_ITER, _NET, _HISTORY, _STEP = 1, 2, 3, 4


def read_solverstate(path: PathLike) -> SolverState:
    """Read a .solverstate, binary or HDF5; its content decides which. The arrays are views of the mapped file.

    Raises `CaffeSplitError` when the file cannot be read, is cut short, holds weights instead, or a blob
    whose shape does not fit its values.

    >>> import numpy as np, os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "tiny.solverstate")
    >>> write_solverstate(path, SolverState(500, "tiny.caffemodel", 2, [np.zeros((2, 3))]))
    >>> state = read_solverstate(path)
    >>> state.iter, state.learned_net, state.current_step, [array.shape for array in state.history]
    (500, 'tiny.caffemodel', 2, [(2, 3)])
    """
    name = os.fspath(path)
    if head_of(name, "a solver state").startswith(lookalikes.HDF5_MAGIC):
        return hdf5.read_solverstate(name)
    buffer = map_file(name)
    iteration, step, learned_net = 0, 0, ""
    located: list[blobs.Blob] = []
    unknown: list[bytes] = []
    try:
        for entry in wire.entries(buffer, 0, len(buffer)):
            number, kind = entry.number, entry.kind
            if number == _ITER and kind == wire.VARINT:
                iteration = wire.signed(entry.value, 32)
            elif number == _STEP and kind == wire.VARINT:
                step = wire.signed(entry.value, 32)
            elif number == _NET and kind == wire.BYTES:
                if not located and entry.end - entry.start > 4096:
                    raise CaffeSplitError(f"{name}: these look like weights, not a solver state")
                learned_net = bytes(buffer[entry.start : entry.end]).decode("utf-8", "surrogateescape")
            elif number == _HISTORY and kind == wire.BYTES:
                if len(located) >= MAX_HISTORY:
                    raise CaffeSplitError(f"{name}: more than {MAX_HISTORY} blobs of history")
                located.append(blobs.locate(buffer, entry.start, entry.end))
            elif number == _ITER or number == 100:
                raise CaffeSplitError(
                    f"{name}: these are weights, not a solver state; give the .solverstate saved with them"
                )
            elif len(unknown) >= MAX_UNKNOWN:
                raise CaffeSplitError(f"{name}: more than {MAX_UNKNOWN} fields that Caffe does not have")
            else:
                unknown.append(bytes(buffer[entry.tag : entry.end]))
    except wire.WireError as error:
        again = "; copy or download it again" if begins_as_state(buffer) else ""
        raise CaffeSplitError(f"{name}: not a whole solver state: at byte {error.offset}, {error}{again}") from None
    except blobs.BlobError as error:
        raise CaffeSplitError(f"{name}: history blob {len(located)}: {error}") from None
    history = [blobs.array(buffer, blob) for blob in located]
    return SolverState(iteration, learned_net, step, history, b"".join(unknown))


def begins_as_state(buffer: memoryview) -> bool:
    """Whether the bytes begin as Caffe's solver states do: the iteration, and the name of the weights."""
    with contextlib.suppress(wire.WireError):
        found = list(itertools.islice(wire.entries(buffer, 0, len(buffer)), 2))
        if [(each.number, each.kind) for each in found] == [(_ITER, wire.VARINT), (_NET, wire.BYTES)]:
            return b".caffemodel" in bytes(buffer[found[1].start : found[1].end])
    return False


def write_solverstate(path: PathLike, state: SolverState) -> None:
    """Write a solver state for Caffe: binary, or HDF5 when `path` ends in `.h5`; whole or not at all.

    Raises `CaffeSplitError` when a binary file would pass 2 GB.
    """
    name = os.fspath(path)
    if name.endswith(".h5"):
        hdf5.write_solverstate(name, state)
        return
    start = wire.encode_tag(_ITER, wire.VARINT) + wire.encode_varint(state.iter)
    if state.learned_net:
        start += wire.encode_bytes(_NET, state.learned_net.encode("utf-8", "surrogateescape"))
    around = []
    total = 0
    for index, array in enumerate(state.history):
        values = blobs.as_array(array, f"history blob {index}")
        before, behind = blobs.head(values)
        size = len(before) + values.size * 4 + len(behind)
        around.append((wire.encode_tag(_HISTORY, wire.BYTES) + wire.encode_varint(size) + before, behind))
        total += size
    end = wire.encode_tag(_STEP, wire.VARINT) + wire.encode_varint(state.current_step) + state.unknown
    if total + len(start) + len(end) + 16 * len(around) > MAX_BINARY:
        raise CaffeSplitError(
            f"{name}: the state would take {total} bytes, and a binary one holds at most {MAX_BINARY}; "
            f"write it as HDF5: {name}.h5"
        )

    def pieces() -> Iterator[bytes | memoryview]:
        yield start
        for (before, behind), array in zip(around, state.history):
            yield before
            yield from blobs.little_endian(array)
            yield behind
        yield end

    write_atomic(name, pieces())
