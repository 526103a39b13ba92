"""LMDBs of Datum records, as Caffe's Data layer reads them."""

from __future__ import annotations

import os
import threading
import weakref
from collections.abc import Iterable, Iterator
from itertools import zip_longest
from pathlib import Path
from typing import Union

import lmdb
import numpy as np
import numpy.typing as npt

from caffe_split.data.images import decode_image
from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, make_folder, new_folder
from caffe_split.formats.weights.datum import decode_datum, encode_datum, read_datum

Image = npt.NDArray[np.uint8]
Values = Union[npt.NDArray[np.uint8], npt.NDArray[np.float32]]


# A process may open an LMDB only once: real path -> (device and inode of its data file, its environment). It is closed
# when nobody reads any more, so that others, such as a notebook, can open it themselves.
_OPEN: dict[str, tuple[tuple[int, int], weakref.ref[lmdb.Environment]]] = {}
_LOCK = threading.Lock()


def open_store(path: PathLike) -> lmdb.Environment:
    """The store at `path`, for reading. While somebody reads, every further call returns the same environment.

    Raises `CaffeSplitError` if there is no store that LMDB can read, or if its file is cut short.
    """
    real = os.path.realpath(path)
    try:
        found = os.stat(os.path.join(real, "data.mdb"))
        file = (found.st_dev, found.st_ino)
        with _LOCK:
            before, known = _OPEN.get(real, (file, _no_store))
            store = known()
            if store is not None and before != file:
                # Another store has taken its place.
                store.close()
                store = None
            if store is None:
                # Records are read in their order, in which the system reads ahead.
                store = lmdb.open(real, readonly=True, lock=False, readahead=True)
                _check_length(path, store, found.st_size)
                _OPEN[real] = file, weakref.ref(store)
            return store
    except (OSError, lmdb.Error) as error:
        if "already open in this process" in str(error):
            raise CaffeSplitError(
                f"{path}: this process has the LMDB open, and LMDB allows that once; close yours first (its close())."
            ) from None
        raise CaffeSplitError(f"{path}: no LMDB that can be read: {error}") from None


def _no_store() -> None:
    """No environment, as a weak reference to one that is gone."""


def _check_length(path: PathLike, store: lmdb.Environment, size: int) -> None:
    """Raises `CaffeSplitError` where the file lacks pages: to read past the end of a mapped file ends the process."""
    needed = (store.info()["last_pgno"] + 1) * store.stat()["psize"]
    if size < needed:
        store.close()
        raise CaffeSplitError(f"{path}: data.mdb has {size:,} bytes of {needed:,}: it is cut short; copy it again")


def write_store(path: PathLike, samples: Iterable[tuple[Image, int]]) -> int:
    """Write (image, label) samples to a new LMDB in the order given, under keys 00000000, 00000001, ...

    Images are uint8 of shape (channels, height, width). Returns the number of samples; see `write_records`.
    """
    return write_records(path, (encode_datum(image, label) for image, label in samples))


def write_records(path: PathLike, records: Iterable[bytes]) -> int:
    """Write Datum records to a new LMDB in the order given, under keys 00000000, 00000001, ...

    The store is made beside `path` and renamed when it is complete. Returns the number of records. Raises
    `CaffeSplitError` if `path` exists, and if the system refuses to write.
    """
    target = Path(path)
    if target.exists():
        raise CaffeSplitError(f"{target} exists; nothing is overwritten. Remove it or choose another folder.")
    make_folder(target.parent)
    count = 0
    with new_folder(target, force=False) as building:
        try:
            # The map is address space, not disk: the file grows as it is written. Nobody else has the folder; and
            # LMDB's lock file is mapped, so that on a full disk a signal would end the process.
            with lmdb.open(os.fspath(building), map_size=1 << 40, lock=False) as store:
                with store.begin(write=True) as transaction:
                    for record in records:
                        transaction.put(f"{count:08d}".encode(), record, append=True)
                        count += 1
                store.sync(True)
        except lmdb.Error as error:
            # LMDB's own words for a full disk are "Input/output error".
            said = str(error).replace(f"{building}: ", "")
            raise CaffeSplitError(f"{target}: cannot be written: {said}; is the disk full?") from error
    return count


def read_store(path: PathLike) -> Iterator[tuple[Image, int]]:
    """The samples of an LMDB in the order in which Caffe reads them."""
    with open_store(path).begin() as transaction:
        for _, value in transaction.cursor():
            yield decode_datum(value)


def difference(path: PathLike, samples: Iterable[tuple[Image, int]]) -> str:
    """How an LMDB differs from these (image, label) samples, as "with other records than ..."; "" if not."""
    for number, (found, wanted) in enumerate(zip_longest(read_store(path), samples)):
        if found is None or wanted is None:
            return f"with {'more' if found else 'fewer'} records ({count_records(path)}) than"
        if found[1] != wanted[1] or not np.array_equal(found[0], wanted[0]):
            return f"with another record {number} (from 0) than"
    return ""


def count_records(path: PathLike) -> int:
    """The number of records in an LMDB."""
    return int(open_store(path).stat()["entries"])


def decode_record(record: bytes, color: bool | None = None) -> tuple[Values, int]:
    """(image, label) of a Datum of any kind; an encoded one is decoded, see `decode_image`."""
    read = read_datum(record)
    return (np.asarray(decode_image(read.encoded, color)) if read.values is None else read.values), read.label


def first_shape(path: PathLike, color: bool | None = None) -> tuple[int, int, int]:
    """(channels, height, width) of the first sample of any kind. Raises `CaffeSplitError` if there is none."""
    with open_store(path).begin() as transaction:
        for _, value in transaction.cursor():
            channels, height, width = decode_record(value, color)[0].shape
            return channels, height, width
    raise CaffeSplitError(f"{path}: the LMDB holds no sample.")
