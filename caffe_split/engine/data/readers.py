"""Where records come from: an LMDB, a list of image files, or HDF5 files. Each gives them over and over, in order.

What is shuffled is so by the seed and the number of the round, so that any process, at any time, has the same order.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from torch.nn import functional as F

from caffe_split.data.images import decode_image
from caffe_split.data.store import decode_record, open_store
from caffe_split.errors import CaffeSplitError

Shape = tuple[int, ...]
# For each top a value a record: an array, or images of many sizes.
Records = tuple[Any, ...]


class Reader(Protocol):
    """`read` gives the next records: for each top of the layer a value a record."""

    def read(self, count: int) -> Records: ...
    def skip(self, count: int) -> None: ...


def _no_objection(_shape: Shape) -> str:
    return ""


class ImageReader:
    """A reader of images (C, height, width) and labels. `objection` says what is wrong with an image's shape, if it
    is; `shape` is that of the first.
    """

    path: str
    shape: tuple[int, int, int]

    def __init__(self) -> None:
        self.objection: Callable[[Shape], str] = _no_objection
        self._position = 0

    def _next(self) -> tuple[np.ndarray, int]:
        """The record at `_position`."""
        raise NotImplementedError

    def _name(self) -> str:
        """What people call the record at `_position`."""
        raise NotImplementedError

    def _look(self) -> tuple[np.ndarray, int]:
        try:
            image, label = self._next()
        except (CaffeSplitError, OSError) as error:
            raise CaffeSplitError(f"{self._name()}: {error}") from None
        objection = self.objection(image.shape)
        if objection:
            raise CaffeSplitError(f"{self._name()} {objection}")
        return image, label

    def read(self, count: int) -> Records:
        images, labels = [], np.empty(count, np.float32)
        for index in range(count):
            image, labels[index] = self._look()
            images.append(image)
            self.skip(1)
        return images, labels

    def skip(self, count: int) -> None:
        """Pass over `count` records, which are not read."""
        self._position += count


class Store(ImageReader):
    """The records of an LMDB in key order: raw, float or encoded ones, the last decoded as `color` says.

    Raises `CaffeSplitError` for a store that is not there, is empty, or holds something else.
    """

    def __init__(self, path: str, color: bool | None = None) -> None:
        super().__init__()
        self.path, self._color = path, color
        store = open_store(path)
        self.entries = int(store.stat()["entries"])
        if not self.entries:
            raise CaffeSplitError(f"{self.path}: the LMDB holds no record.")
        self._cursor = store.begin(buffers=False).cursor()
        self._cursor.first()
        channels, height, width = self._look()[0].shape
        self.shape = (channels, height, width)

    def _next(self) -> tuple[np.ndarray, int]:
        return decode_record(self._cursor.value(), self._color)

    def _name(self) -> str:
        return f"{self.path}: record {self._position % self.entries}"

    def skip(self, count: int) -> None:
        for _ in range(count % self.entries):
            if not self._cursor.next():
                self._cursor.first()
        self._position += count


class ImageList(ImageReader):
    """The images that a text file lists, a path and a label a line, below `root`; resized to `size` if any.

    skip: so many at most of the first round are left out, as many as the seed says. Raises `CaffeSplitError` for lines
    of another form, and for files that are not there.
    """

    def __init__(
        self,
        path: str,
        root: str = "",
        color: bool = True,
        size: tuple[int, int] | None = None,
        *,
        shuffle: bool = False,
        skip: int = 0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.path, self._color, self._size = path, color, size
        self._shuffle, self._seed = shuffle, seed
        self._lines = list(_listed(path, root))
        if not self._lines:
            raise CaffeSplitError(f"{path} lists no image.")
        self._round, self._order = -1, np.arange(len(self._lines))
        self._position = int(np.random.default_rng(seed).integers(skip)) if skip else 0
        if self._position >= len(self._lines):
            raise CaffeSplitError(f"{path}: rand_skip {skip} would pass over all of its {len(self._lines)} images.")
        channels, height, width = self._look()[0].shape
        self.shape = (channels, height, width)

    def labels(self) -> np.ndarray:
        """All labels, in the list's order."""
        return np.array([label for _, label in self._lines])

    def _line(self) -> tuple[str, int]:
        number, place = divmod(self._position, len(self._lines))
        if self._shuffle and number != self._round:
            self._order, self._round = _order(len(self._lines), self._seed, number), number
        return self._lines[self._order[place]]

    def _next(self) -> tuple[np.ndarray, int]:
        file, label = self._line()
        image = decode_image(Path(file).read_bytes(), self._color)
        return (image if self._size is None else resize(image, self._size)), label

    def _name(self) -> str:
        return self._line()[0]


def _listed(path: str, root: str) -> Iterator[tuple[str, int]]:
    for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines(), 1):
        if not line.strip():
            continue
        file, _, label = line.rstrip("\r").rpartition(" ")
        try:
            found = root + file, int(label)
        except ValueError:
            raise CaffeSplitError(f"{path}:{number}: {line!r}; expected a file, a blank and a label.") from None
        if not file or not Path(found[0]).is_file():
            raise CaffeSplitError(f"{path}:{number}: no image '{found[0]}' seen from {Path.cwd()}.")
        yield found


def _order(count: int, *seeds: int) -> np.ndarray:
    return np.random.default_rng(seeds).permutation(count)


def resize(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """An image of (height, width) `size`: each pixel from the four nearest, as OpenCV's resize, without smoothing."""
    if image.shape[1:] == size:
        return image
    values = torch.from_numpy(image).float()[None]
    done = F.interpolate(values, size, mode="bilinear", align_corners=False)[0]
    resized: np.ndarray = done.round().byte().numpy()
    return resized


class Hdf5Files:
    """The rows of the data sets named as the tops, in the HDF5 files that a text file lists; float32.

    shuffle: files, and rows within a file, in another order each round. Raises `CaffeSplitError` without h5py, and for
    files that are not there, lack a data set, or differ in shape.
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
        # (number of the round, place in its order of files), and that file's rows in this round's order.
        self._open = (-1, -1)
        self._values: list[np.ndarray] = []

    def column(self, top: str) -> np.ndarray:
        """All values of a data set, in the files' order."""
        found = []
        for file in self._files:
            with _hdf5(file) as stream:
                found.append(np.asarray(stream[top][()], np.float32).ravel())
        return np.concatenate(found)

    def _look(self, file: str) -> int:
        """Check a file; its number of rows."""
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
        """Have the file at a place of a round; its number of rows."""
        order = _order(len(self._files), self._seed, number) if self._shuffle else range(len(self._files))
        index = int(order[place])
        if self._open != (number, place):
            with _hdf5(self._files[index]) as stream:
                self._values = [np.asarray(stream[top][()], np.float32) for top in self._tops]
            if self._shuffle:
                rows = _order(self._rows[index], self._seed, number, place)
                self._values = [values[rows] for values in self._values]
            self._open = number, place
        return self._rows[index]

    def _where(self) -> tuple[int, int, int]:
        """(round, place in its order of files, row) of the next record."""
        number, row = divmod(self._position, sum(self._rows))
        order = _order(len(self._files), self._seed, number) if self._shuffle else range(len(self._files))
        for place, index in enumerate(order):
            if row < self._rows[index]:
                return number, place, row
            row -= self._rows[index]
        raise AssertionError

    def read(self, count: int) -> Records:
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
        """Pass over `count` rows, which are not read."""
        self._position += count


def _hdf5(path: str) -> Any:
    try:
        import h5py
    except ImportError:
        raise CaffeSplitError("HDF5Data needs h5py: pip install 'caffe-split[hdf5]'") from None
    if not Path(path).is_file():
        raise CaffeSplitError(f"no HDF5 file '{path}' seen from {Path.cwd()}.")
    try:
        return h5py.File(path, "r")
    except OSError as error:
        raise CaffeSplitError(f"{path}: no HDF5 file that can be read: {error}") from None
