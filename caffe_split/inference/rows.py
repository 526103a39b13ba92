"""Arrays that grow row by row on disk, and that a killed process leaves so that the next one goes on."""

from __future__ import annotations

import io
import math
import os
from collections.abc import Mapping
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy

from caffe_split.errors import CaffeSplitError
from caffe_split.files import open_to_change, reason

Shape = tuple[int, ...]
_BYTES = 4


class GrowingRows:
    """An .npy file per name, of float32 and of a known shape, written from the front.

    Args:
        files: name -> file.
        batch: rows that are written at a time, except the last ones.

    Attributes:
        done: the rows that all files have.
    """

    def __init__(self, files: Mapping[str, Path], batch: int) -> None:
        self._files, self._batch = files, batch
        self._streams: dict[str, IO[bytes]] = {}
        rows = [_rows_in(path) for path in files.values()]
        whole = [total for _, total in rows]
        least = min(there for there, _ in rows)
        # The last batch may be a part of one.
        self.done = least if least and all(total == least for total in whole) else least // batch * batch

    def begin(self, shapes: Mapping[str, Shape]) -> None:
        """Open the files for rows from `done` on; `shapes` are those of the whole arrays.

        What files have after `done`, half a row for instance, is cut off; how many rows there will be may have
        changed. Raises `CaffeSplitError`.
        """
        for name, path in self._files.items():
            head = _header(shapes[name])
            if self.done and not _has_rows(path, shapes[name], len(head)):
                raise CaffeSplitError(f"{path}: not the rows of blob '{name}' of shape {shapes[name]}; remove it.")
            stream = self._streams[name] = open_to_change(path)
            stream.write(head)
            stream.truncate(len(head) + self.done * _row_bytes(shapes[name]))
            stream.seek(0, os.SEEK_END)

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Append rows. Raises `CaffeSplitError` where the system refuses."""
        for name, stream in self._streams.items():
            try:
                stream.write(np.ascontiguousarray(values[name], "<f4").data)
                stream.flush()
            except OSError as error:
                raise CaffeSplitError(f"{self._files[name]}: cannot be written: {reason(error)}.") from error
        self.done += len(next(iter(values.values())))

    def close(self) -> None:
        """Close the files."""
        for stream in self._streams.values():
            stream.close()


def _header(shape: Shape) -> bytes:
    stream = io.BytesIO()
    npy.write_array_header_1_0(stream, {"descr": "<f4", "fortran_order": False, "shape": shape})
    return stream.getvalue()


def _has_rows(path: Path, shape: Shape, head: int) -> bool:
    """Whether a file has rows of this shape, of however many, behind a header of `head` bytes."""
    with path.open("rb") as stream:
        found = _begun(stream)
        return found is not None and found[1:] == shape[1:] and stream.tell() == head


def _row_bytes(shape: Shape) -> int:
    return _BYTES * math.prod(shape[1:])


def _rows_in(path: Path) -> tuple[int, int]:
    """(whole rows that a file has, rows that it will have); (0, 0) where it is not there or has not begun."""
    try:
        with path.open("rb") as stream:
            shape = _begun(stream)
            if shape is None:
                return 0, 0
            size = os.fstat(stream.fileno()).st_size - stream.tell()
    except OSError:
        return 0, 0
    return min(shape[0], size // max(1, _row_bytes(shape))), shape[0]


def _begun(stream: IO[bytes]) -> Shape | None:
    """The shape that an .npy file's header has; None where there is no whole header."""
    try:
        npy.read_magic(stream)
        shape, _, _ = npy.read_array_header_1_0(stream)
    except ValueError:
        return None
    return tuple(shape)
