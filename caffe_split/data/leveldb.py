"""LevelDB data sets of Datum records, Caffe's default, read by plyvel.

LevelDB locks the folder that it opens, and writes into it even where nothing is changed. So it is given a temporary
folder of links to the files: what it writes goes there, several processes may read one data set, and a data set on a
read-only disk can be read.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import weakref
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from caffe_split.data import is_leveldb
from caffe_split.data.store import decode_record, write_records
from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, link_files, scratch

NO_PLYVEL = "LevelDB data sets are read by plyvel: pip install plyvel"
# Files that LevelDB would write, not read.
_ITS_OWN = ("LOCK", "LOG", "LOG.old")


def can_read() -> bool:
    """Whether plyvel is installed."""
    return importlib.util.find_spec("plyvel") is not None


class LevelDb:
    """The records of a LevelDB in the order of their keys, in which Caffe reads them.

    Raises `CaffeSplitError` without plyvel, and where there is no LevelDB that it can read.
    """

    def __init__(self, path: PathLike) -> None:
        self.path = os.fspath(path)
        if not is_leveldb(path):
            is_lmdb = Path(path, "data.mdb").is_file()
            what = "this is an LMDB already" if is_lmdb else f"no LevelDB seen from {Path.cwd()}"
            raise CaffeSplitError(f"{self.path}: {what}.")
        if not can_read():
            raise CaffeSplitError(f"{self.path}: {NO_PLYVEL}")
        import plyvel

        stack = contextlib.ExitStack()
        self._links = os.fspath(stack.enter_context(scratch()))
        weakref.finalize(self, stack.close)
        try:
            link_files(path, self._links, leave=_ITS_OWN)
            self._store: Any = plyvel.DB(self._links, create_if_missing=False)
        except (OSError, plyvel.Error) as error:
            said = str(error).replace(self._links, self.path)
            raise CaffeSplitError(f"{self.path}: no LevelDB that can be read: {said}") from None

    def count(self) -> int:
        """The number of records. Raises `CaffeSplitError` where the files are damaged."""
        return sum(1 for _ in self.records())

    def records(self) -> Iterator[bytes]:
        """All records from the first on. Raises `CaffeSplitError` where the files are damaged."""
        import plyvel

        try:
            yield from self._store.iterator(include_key=False, verify_checksums=True, fill_cache=False)
        except plyvel.Error as error:
            said = str(error).replace(self._links, self.path)
            raise CaffeSplitError(f"{self.path}: damaged: {said}") from None


def first_leveldb_shape(path: PathLike, color: bool | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of the first sample of any kind. Raises `CaffeSplitError` as `LevelDb` does."""
    for record in LevelDb(path).records():
        channels, height, width = decode_record(record, color)[0].shape
        return channels, height, width
    raise CaffeSplitError(f"{path}: the LevelDB holds no sample.")


def count_leveldb(path: PathLike) -> int:
    """The number of records, which are passed over one by one; 0 where it cannot be read, or without plyvel."""
    try:
        return LevelDb(path).count()
    except CaffeSplitError:
        return 0


def leveldb_to_lmdb(source: PathLike, out: PathLike) -> int:
    """Write the records of a LevelDB to a new LMDB, in their order, byte for byte. Returns their number.

    Raises `CaffeSplitError` as `LevelDb` and `write_records` do, and where the LevelDB is empty.
    """
    store = LevelDb(source)
    if next(store.records(), None) is None:
        raise CaffeSplitError(f"{source}: the LevelDB holds no record.")
    return write_records(out, store.records())
