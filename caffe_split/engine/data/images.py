"""Readers of labelled images: from an LMDB, or from the files that a list names."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import numpy as np
from typing_extensions import override

from caffe_split.data.images import Picture, decode_image, resize_image
from caffe_split.data.store import open_store
from caffe_split.engine.data.reader import Records, Shape, Stored, shuffled
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.datum import read_datum

# Bytes up to which all images of a store stay in memory.
_STAYS = 1 << 24


def _no_objection(_shape: Shape) -> str:
    return ""


class ImageReader:
    """A reader of images (C, height, width), uint8 or float32, and integer labels.

    `shape` is that of the first image. `objection`, which the user of the reader may set, gets the shape of each image
    and returns what is wrong with it, or "".
    """

    path: str
    shape: tuple[int, int, int]
    # Whether images that were read once stay in memory.
    stays = False
    # Whether images are decoded, which takes longer than all else.
    decodes = True

    def __init__(self) -> None:
        self.objection: Callable[[Shape], str] = _no_objection
        self._position = 0

    def _next(self) -> tuple[Stored, int]:
        """The record at `_position`; errors without its name."""
        raise NotImplementedError

    def _name(self) -> str:
        """The name of the record at `_position` in error messages."""
        raise NotImplementedError

    def _stored(self) -> tuple[Stored, int]:
        """The record at `_position`; errors begin with its name."""
        name = self._name()
        try:
            stored, label = self._next()
        except (CaffeSplitError, OSError) as error:
            raise CaffeSplitError(f"{name}: {error}") from None
        return Stored(partial(self._load, name, stored), stored.is_float), label

    def _load(self, name: str, stored: Stored) -> np.ndarray | Picture:
        try:
            image = stored.load()
        except (CaffeSplitError, OSError) as error:
            raise CaffeSplitError(f"{name}: {error}") from None
        objection = self.objection(image.shape)
        if objection:
            raise CaffeSplitError(f"{name} {objection}")
        return image

    def _look(self) -> np.ndarray:
        """The image at `_position`."""
        return np.asarray(self._stored()[0].load())

    def read(self, count: int) -> Records:
        """The next images, each a `Stored`, and their labels as float32 (count,)."""
        images, labels = [], np.empty(count, np.float32)
        for index in range(count):
            image, labels[index] = self._stored()
            images.append(image)
            self.skip(1)
        return images, labels

    def skip(self, count: int) -> None:
        """Pass over `count` records without reading them."""
        self._position += count


def stored_record(record: bytes, color: bool | None) -> tuple[Stored, int]:
    """The image and label of a Datum of any kind. color: as in `decode_image`. Raises `CaffeSplitError`."""
    read = read_datum(record)
    if read.values is None:
        return Stored(partial(decode_image, read.encoded, color)), read.label
    values = read.values
    return Stored(lambda: values, values.dtype != np.uint8), read.label


class StoreReader(ImageReader):
    """Reads an LMDB of Datum records in the order of the keys: raw, float or encoded images.

    color: encoded images are decoded in color (True), in gray (False), or as they are (None). Raises `CaffeSplitError`
    for a store that is not there, is empty, or holds something else.

    The images of a small store stay in memory, so that a round after the first reads nothing; `stays` says so.
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
        # The record at which the cursor stands.
        self._at = 0
        # Decoded images with their labels, by place.
        self._kept: dict[int, tuple[Stored, int]] = {}
        first = self._look()
        self.decodes = bool(read_datum(self._cursor.value()).encoded)
        self.stays = first.nbytes * self.entries <= _STAYS
        channels, height, width = first.shape
        self.shape = (channels, height, width)

    @override
    def _next(self) -> tuple[Stored, int]:
        place = self._position % self.entries
        if place in self._kept:
            return self._kept[place]
        for _ in range((place - self._at) % self.entries):
            if not self._cursor.next():
                self._cursor.first()
        self._at = place
        stored, label = stored_record(self._cursor.value(), self._color)
        if not self.stays:
            return stored, label
        return Stored(partial(self._keep, place, stored, label), stored.is_float), label

    def _keep(self, place: int, stored: Stored, label: int) -> np.ndarray:
        image = np.asarray(stored.load())
        self._kept[place] = Stored(lambda: image, stored.is_float), label
        return image

    @override
    def _name(self) -> str:
        return f"{self.path}: record {self._position % self.entries}"


class ImageListReader(ImageReader):
    """Reads the image files that a text file lists, one path and label per line.

    Args:
        path: the list.
        root: what precedes each path.
        color: whether images have three channels (BGR) or one.
        size: (height, width) to which images are resized; None keeps their sizes.
        shuffle: read in another order in each round.
        skip: start at a random one of the first `skip` images (rand_skip); 0 starts at the first.
        seed: of the order and the start.

    Raises `CaffeSplitError` for lines of another form, and for files that are not there.
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
        channels, height, width = self._look().shape
        self.shape = (channels, height, width)

    def labels(self) -> np.ndarray:
        """The labels of all images, in the order of the list."""
        return np.array([label for _, label in self._lines])

    def _line(self) -> tuple[str, int]:
        number, place = divmod(self._position, len(self._lines))
        if self._shuffle and number != self._round:
            self._order, self._round = shuffled(len(self._lines), self._seed, number), number
        line: tuple[str, int] = self._lines[self._order[place]]
        return line

    @override
    def _next(self) -> tuple[Stored, int]:
        file, label = self._line()
        return Stored(partial(self._decode, file)), label

    def _decode(self, file: str) -> np.ndarray | Picture:
        image = decode_image(Path(file).read_bytes(), self._color)
        return image if self._size is None else resize_image(np.asarray(image), self._size)

    @override
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
