"""A reader of HDF5 files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from caffe_split.engine.data.reader import Records, Shape, shuffled
from caffe_split.errors import CaffeSplitError


class Hdf5Reader:
    """Reads rows of the HDF5 files that a text file lists; for each of `tops` the data set of that name, as float32.

    shuffle: in each round, another order of the files and of the rows within each file. `shapes` has the shape of one
    row for each top. Raises `CaffeSplitError` without h5py, and for files that are not there, lack a data set, or
    differ in shape.
    """

    def __init__(self, path: str, tops: Sequence[str], *, shuffle: bool = False, seed: int = 0) -> None:
        self.path, self._tops = path, tops
        self._shuffle, self._seed = shuffle, seed
        self._files = Path(path).read_text(encoding="utf-8", errors="surrogateescape").split()
        if not self._files:
            raise CaffeSplitError(f"{path} lists no HDF5 file.")
        self.shapes: list[Shape] = []
        self._rows = [self._look(file) for file in self._files]
        self._position = 0
        # The file in memory, as (number of the round, place in its order of files), and its rows in the round's order.
        self._open = (-1, -1)
        self._values: list[np.ndarray] = []

    def column(self, top: str) -> np.ndarray:
        """All values of the data set `top`, in the order of the files, as one axis."""
        found = []
        for file in self._files:
            with _hdf5(file) as stream:
                found.append(np.asarray(stream[top][()], np.float32).ravel())
        return np.concatenate(found)

    def _look(self, file: str) -> int:
        """Check a file. Returns its number of rows."""
        with _hdf5(file) as stream:
            found = []
            for top in self._tops:
                values = stream.get(top)
                if values is None or not hasattr(values, "shape"):
                    raise CaffeSplitError(f"{file}: no data set '{top}'; it has {', '.join(stream) or 'none'}.")
                if values.dtype.kind not in "fiu" or not values.shape:
                    raise CaffeSplitError(
                        f"{file}: data set '{top}' of type {values.dtype} and shape {values.shape}; expected rows of "
                        "numbers."
                    )
                found.append(tuple(map(int, values.shape)))
        shapes = [shape[1:] for shape in found]
        if len({shape[0] for shape in found}) != 1 or not found[0][0]:
            raise CaffeSplitError(f"{file}: {', '.join(str(shape[0]) for shape in found)} rows in its data sets.")
        self.shapes = self.shapes or shapes
        if shapes != self.shapes:
            raise CaffeSplitError(f"{file}: rows of shapes {shapes}; those of {self._files[0]} are {self.shapes}.")
        return found[0][0]

    def _load(self, number: int, place: int) -> int:
        """Load the file at a place in the order of round `number`. Returns its number of rows."""
        index = self._file_order(number)[place]
        if self._open != (number, place):
            with _hdf5(self._files[index]) as stream:
                self._values = [np.asarray(stream[top][()], np.float32) for top in self._tops]
            if self._shuffle:
                rows = shuffled(self._rows[index], self._seed, number, place)
                self._values = [values[rows] for values in self._values]
            self._open = number, place
        return self._rows[index]

    def _file_order(self, number: int) -> Sequence[int]:
        """The indices of the files in the order of round `number`."""
        count = len(self._files)
        return [int(index) for index in shuffled(count, self._seed, number)] if self._shuffle else range(count)

    def _where(self) -> tuple[int, int, int]:
        """(round, place in its order of files, row) of the next record."""
        number, row = divmod(self._position, sum(self._rows))
        for place, index in enumerate(self._file_order(number)):
            if row < self._rows[index]:
                return number, place, row
            row -= self._rows[index]
        raise AssertionError

    def read(self, count: int) -> Records:
        """The next rows, an array (count, ...) for each top."""
        parts: list[list[np.ndarray]] = [[] for _ in self._tops]
        while count:
            number, place, row = self._where()
            taken = min(count, self._load(number, place) - row)
            for part, values in zip(parts, self._values):
                part.append(values[row : row + taken])
            self._position += taken
            count -= taken
        return tuple(np.concatenate(part) for part in parts)

    def skip(self, count: int) -> None:
        """Pass over `count` rows without reading them."""
        self._position += count


def _hdf5(path: str) -> Any:
    try:
        import h5py
    except ImportError:
        raise CaffeSplitError("HDF5Data needs h5py: pip install h5py") from None
    if not Path(path).is_file():
        raise CaffeSplitError(f"no HDF5 file '{path}' seen from {Path.cwd()}.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise CaffeSplitError(f"{path}: no HDF5 file that can be read: {error}") from None
