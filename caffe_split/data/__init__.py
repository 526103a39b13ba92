"""Data sets as the LMDBs that Caffe's Data layer reads."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from caffe_split.files import PathLike

# The number of digits for training, by default.
DIGITS_TRAIN = 197


# Here, so that a net's shapes are found without the libraries of data sets where no data set is there.
def is_store(path: PathLike) -> bool:
    """Whether an LMDB lies at `path`."""
    return (Path(path) / "data.mdb").is_file()


def is_leveldb(path: PathLike) -> bool:
    """Whether a LevelDB lies at `path`."""
    return (Path(path) / "CURRENT").is_file()
