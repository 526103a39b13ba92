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

    A file that is shortened in place while it is mapped ends the process at the next look at what is gone. This toolkit
    replaces files by renaming, and readers keep the old bytes; Caffe writes a snapshot of the same name in place, see
    `check_whole`.
    """
    try:
        with open(name, "rb") as stream:
            return memoryview(mmap.mmap(stream.fileno(), 0, access=mmap.ACCESS_READ))
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{name}: cannot map the file: {error}") from None


def check_whole(name: str, mapped: memoryview) -> None:
    """Raises `CaffeSplitError` if the file that `map_file` has mapped is shorter by now: its bytes are gone."""
    if isinstance(mapped.obj, mmap.mmap) and mapped.obj.size() < len(mapped):
        raise written_anew(name)


def written_anew(name: str) -> CaffeSplitError:
    """The error of a file that another program changed in place."""
    return CaffeSplitError(
        f"{name}: another program has written it anew while it was read; try again when that has ended"
    )
