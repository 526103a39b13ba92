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

    Raises `CaffeSplitError` when it cannot be read, is empty, or is surely something else.
    """
    try:
        with open(name, "rb") as stream:
            head = stream.read(lookalikes.HEAD_SIZE)
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{name}: cannot read {what}: {reason(error)}") from None
    if not head:
        raise CaffeSplitError(f"{name}: the file is empty; an interrupted copy or download?")
    found = lookalikes.name_of(head)
    if found is not None:
        raise CaffeSplitError(f"{name}: expected {what}, but this is {found}")
    return head


def map_file(name: str) -> memoryview:
    """The bytes of a file, mapped: the mapping lives as long as the memoryview or any array over it.

    The file must not be shortened in place while it is mapped. This toolkit never does that: it replaces files by
    renaming, and readers keep the old bytes.
    """
    try:
        with open(name, "rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{name}: cannot map the file: {error}") from None
