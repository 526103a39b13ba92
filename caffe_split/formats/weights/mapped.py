"""Opening a binary file of Caffe's for reading, and how big one may be."""

from __future__ import annotations

import mmap

from caffe_split.errors import CaffeSplitError
from caffe_split.files import reason
from caffe_split.formats.weights import lookalikes

# protobuf counts message sizes in a signed 32-bit int; Caffe reads no further.
MAX_BINARY = 2**31 - 1


def head_of(name: str, what: str) -> bytes:
    """The first bytes of a file that should be `what` ("weights", "a solver state").

    A file that is surely something else is refused by its name.
    """
    try:
        with open(name, "rb") as stream:
            head = stream.read(lookalikes.HEAD_SIZE)
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{name}: cannot read {what}: {reason(error)}") from None
    if not head:
        raise CaffeSplitError(f"{name}: the file is empty; an interrupted copy or download?")
    relative = lookalikes.name_of(head)
    if relative is not None:
        raise CaffeSplitError(f"{name}: expected {what}, but this is {relative}")
    return head


def map_file(name: str) -> memoryview:
    """The bytes of a file, mapped: the mapping lives as long as the memoryview or any array over it.

    A mapped file must not be cut short in place by others meanwhile (ours are replaced by renaming, which
    leaves the old bytes to their readers).
    """
    try:
        with open(name, "rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{name}: cannot map the file: {error}") from None
