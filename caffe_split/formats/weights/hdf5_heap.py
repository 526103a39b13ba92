"""A check that the HDF5 library lacks: that the free list of a group's heap comes to an end.

Groups of the old layout, which Caffe writes, keep their members' names in a heap. The library follows the heap's list
of free places wherever it leads; if the list is a circle, it fills the memory. So the list is followed here first.
Only what is needed to find it is read; the library notices other damage itself.
"""

from __future__ import annotations

import struct
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.lookalikes import HDF5_MAGIC

_SYMBOL_TABLE = 0x11
_END = 1  # the mark of the last free place


def check_root(path: str, data: memoryview) -> None:
    """`check_heap` for the root group of the file `data`."""
    version = data[len(HDF5_MAGIC)]
    if version in (0, 1):
        check_heap(path, data, struct.unpack_from("<Q", data, 64 + 4 * version)[0], "/")


def check_member(path: str, data: memoryview, group: Any, key: str) -> None:
    """`check_heap` for the group `key` in `group`. Asks its parent for its place: asking itself reads the heap."""
    place = group.id.links.get_info(key.encode("utf-8", "surrogateescape")).u
    check_heap(path, data, place, f"{group.name.rstrip('/')}/{key}")


def check_heap(path: str, data: memoryview, header: int, group: str) -> None:
    """Raise `CaffeSplitError` when the free places in a group's heap do not come to an end.

    `header` is where the group's object header begins in the file `data`.
    """
    try:
        heap = _heap_of(data, header)
        if heap is None:
            return
        size, place, start = struct.unpack_from("<3Q", data, heap + 8)
        seen = set()
        while place != _END:
            if place in seen or place + 16 > size:
                raise CaffeSplitError(f"{path}: damaged: the heap of group {group} at byte {heap} has no end")
            seen.add(place)
            place = struct.unpack_from("<Q", data, start + place)[0]
    except struct.error:
        return  # past the end of the file: the library will say so


def _heap_of(data: memoryview, header: int) -> int | None:
    """Where the heap of the group with this object header begins; None for another layout."""
    if bytes(data[header : header + 1]) != b"\x01":
        return None
    count, _, size = struct.unpack_from("<HII", data, header + 2)
    position, end = header + 16, header + 16 + size
    for _ in range(count):
        if position + 8 > end:
            return None
        kind, length = struct.unpack_from("<HH", data, position)
        if kind == _SYMBOL_TABLE:
            heap: int = struct.unpack_from("<Q", data, position + 16)[0]
            return heap if bytes(data[heap : heap + 4]) == b"HEAP" else None
        position += 8 + length
    return None
