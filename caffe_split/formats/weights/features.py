"""HDF5 files whose data sets have a row per record, as Caffe's HDF5Data layer reads them.

h5py is optional (`pip install h5py`) and is imported when the first such file is read or written.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike, replacing

# Rows are copied in pieces of about this many bytes.
_PIECE = 1 << 24


def need_h5py() -> Any:
    """The module. Raises `CaffeSplitError` where it is not installed."""
    try:
        import h5py
    except ImportError:
        raise CaffeSplitError("reading and writing HDF5 needs h5py: pip install h5py") from None
    return h5py


def write_rows(path: PathLike, columns: Mapping[str, np.ndarray]) -> None:
    """Write arrays, which may be mapped from files, as data sets of their names.

    Raises `CaffeSplitError` without h5py, and where the system refuses to write.
    """
    h5py = need_h5py()
    with replacing(path) as temporary:
        try:
            with h5py.File(temporary, "w") as file:
                for name, values in columns.items():
                    made = file.create_dataset(name, values.shape, "<f4")
                    step = max(1, _PIECE // max(1, values[:1].nbytes))
                    for start in range(0, len(values), step):
                        made[start : start + step] = values[start : start + step]
        except (OSError, ValueError, RuntimeError) as error:
            raise CaffeSplitError(f"{path}: cannot be written: {error}") from error


def count_rows(path: PathLike, column: str) -> int:
    """The rows of a data set; 0 where there is no such one, or no h5py."""
    try:
        with need_h5py().File(path, "r") as file:
            return int(file[column].shape[0])
    except (CaffeSplitError, OSError, KeyError, AttributeError, IndexError):
        return 0
