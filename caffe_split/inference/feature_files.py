"""The files of extracted features: an array per blob while they grow, and the form that was asked for in the end."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np

from caffe_split.data.store import write_records
from caffe_split.errors import CaffeSplitError
from caffe_split.files import remove_folder
from caffe_split.formats.weights.datum import encode_features
from caffe_split.formats.weights.features import write_rows

FORMS = ("npy", "hdf5", "lmdb")
_HDF5 = "features.h5"


def convert(work: Path, paths: Mapping[str, Path], form: str) -> list[str]:
    """Write the rows in their final form; the names of the files in the folder."""
    if form == "npy":
        return [path.name for path in paths.values()]
    arrays = {name: np.load(path, mmap_mode="r") for name, path in paths.items()}
    if form == "hdf5":
        write_rows(work / _HDF5, arrays)
        return [_HDF5]
    written = []
    for name, file in file_names(list(paths), "_lmdb").items():
        # One that a killed process has written is whole, but this one writes it anew.
        remove_folder(work / file, lambda path: path.name == "data.mdb")
        write_records(work / file, (encode_features(_three_axes(row)) for row in arrays[name]))
        written.append(f"{file}/data.mdb")
    return written


def check_form(shapes: Mapping[str, Sequence[int]], form: str) -> None:
    """Raises `CaffeSplitError` for blobs of these shapes, rows first, that a form does not hold."""
    for name, shape in shapes.items():
        if form == "lmdb" and len(shape) > 4:
            raise CaffeSplitError(
                f"blob '{name}' has rows of shape {tuple(shape[1:])}; a Datum has at most 3 axes: give --format hdf5."
            )


def _three_axes(row: np.ndarray) -> np.ndarray:
    """A row as (channels, height, width), which is what a Datum has."""
    return np.asarray(row, np.float32).reshape(row.shape + (1,) * (3 - row.ndim))


def file_names(names: Sequence[str], ending: str) -> dict[str, str]:
    """Blob -> the name of its file. Raises `CaffeSplitError` where two blobs would get the same."""
    # Files whose names begin with a point are hidden.
    found = {name: re.sub(r"^\.|/", "_", name) + ending for name in names}
    if len(set(found.values())) != len(found):
        raise CaffeSplitError(
            f"blobs {', '.join(names)}: the files of two would have the same name: / and a point in front become _."
        )
    return found
