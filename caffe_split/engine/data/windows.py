"""A reader of windows of images, as R-CNN trains on them: Caffe's window files."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from caffe_split.data.images import decode_image, resize_image
from caffe_split.engine.data.reader import Records, Stored
from caffe_split.errors import CaffeSplitError


@dataclass(frozen=True)
class Window:
    """A window of an image: its number in the file's order, its label, and its corners, both of them inside."""

    image: int
    label: int
    corners: tuple[int, int, int, int]


@dataclass(frozen=True)
class Cut:
    """How a window becomes an image of `crop` x `crop` values.

    With `context` the window is enlarged until it has that many values of its surroundings on each side; a `square`
    one is first made as high as wide. What lies outside of the image stays 0.
    """

    crop: int
    context: int = 0
    square: bool = False

    def __call__(self, image: np.ndarray, window: Window, mirrored: bool) -> tuple[np.ndarray, int, int]:
        """The values (C, height, width) of a window, and the row and column at which they begin in the crop.

        Raises `CaffeSplitError` for a window that does not lie in its image (C, height, width).
        """
        height, width = image.shape[1:]
        x1, y1, x2, y2 = window.corners
        size, place = (self.crop, self.crop), (0, 0)
        if self.context or self.square:
            (x1, x2), (y1, y2) = self._enlarged(window)
            columns, rows = self._clipped(x1, x2, width), self._clipped(y1, y2, height)
            x1, x2, y1, y2 = *columns.inside, *rows.inside
            # The padding is mirrored, too.
            place = rows.before, columns.behind if mirrored else columns.before
            size = min(rows.length, self.crop - place[0]), min(columns.length, self.crop - place[1])
        if not (0 <= x1 <= x2 < width and 0 <= y1 <= y2 < height) or min(size) < 1:
            raise CaffeSplitError(f"the window {window.corners} does not lie in an image of {width}x{height}")
        cut = resize_image(np.ascontiguousarray(image[:, y1 : y2 + 1, x1 : x2 + 1]), size)
        return (cut[:, :, ::-1] if mirrored else cut), *place

    def _enlarged(self, window: Window) -> tuple[tuple[int, int], tuple[int, int]]:
        """First and last column, first and last row, of the enlarged window. Computed in float32, as in Caffe."""
        x1, y1, x2, y2 = window.corners
        scale = np.float32(self.crop) / np.float32(self.crop - 2 * self.context)
        halves = [np.float32((last - first + 1) / 2) for first, last in ((x1, x2), (y1, y2))]
        centres = [np.float32(first) + half for first, half in zip((x1, y1), halves)]
        if self.square:
            halves = [max(halves)] * 2
        columns, rows = (
            (_rounded(centre - half * scale), _rounded(centre + half * scale)) for centre, half in zip(centres, halves)
        )
        return columns, rows

    def _clipped(self, first: int, last: int, length: int) -> _Clipped:
        """The part of an enlarged window along one axis that lies in an image of that length."""
        before, behind = max(0, -first), max(0, last - length + 1)
        scale = np.float32(self.crop) / np.float32(last - first + 1)
        inside = first + before, last - behind
        covered, *around = (
            _rounded(np.float32(count) * scale) for count in (inside[1] - inside[0] + 1, before, behind)
        )
        return _Clipped(inside, covered, around[0], around[1])


@dataclass(frozen=True)
class _Clipped:
    """First and last place inside of the image; and in values of the crop, their length and what lies around them."""

    inside: tuple[int, int]
    length: int
    before: int
    behind: int


def _rounded(value: np.floating) -> int:
    """The nearest whole number; of two, the one further from 0."""
    number = float(value)
    return int(math.copysign(math.floor(abs(number) + 0.5), number))


class WindowReader:
    """Draws windows of the images that a window file names, with the wanted share of objects in each batch.

    Each batch begins with background and ends with objects. Which windows it has, and which are mirrored, follows from
    the seed and the batch's number.

    Args:
        path: the window file: for each image `# INDEX`, its file, channels, height and width, the number of its
            windows, and for each of these its class, its overlap with an object and its corners x1 y1 x2 y2.
        root: what precedes each file.
        thresholds: windows that overlap by the first at least are objects; by less than the second, background.
        batch: number of records in a batch.
        share: of the objects in a batch, rounded down.
        cut: how a window is cut out.
        mirror: whether half of the windows are mirrored.
        mean: subtracted before the scale, (C, 1, 1), or (C, crop, crop) of the values under the crop.
        scale: multiplied by.
        seed: of the draws.

    Raises `CaffeSplitError` for files of another form, for images that are not there, and where a kind is lacking.
    """

    def __init__(
        self,
        path: str,
        root: str,
        thresholds: tuple[float, float],
        *,
        batch: int,
        share: float,
        cut: Cut,
        mirror: bool = False,
        mean: np.ndarray | None = None,
        scale: float = 1,
        seed: int = 0,
    ) -> None:
        self.path, self._cut, self._mirror, self._mean, self._scale = path, cut, mirror, mean, scale
        self._batch, self._seed, self._position = batch, seed, 0
        self.images: list[str] = []
        objects: list[Window] = []
        background: list[Window] = []
        for window, overlap, line in _listed(path, root, self.images):
            if overlap >= np.float32(thresholds[0]):
                if window.label < 1:
                    raise CaffeSplitError(f"{path}:{line}: an object of class {window.label}; classes begin at 1.")
                objects.append(window)
            elif overlap < np.float32(thresholds[1]):
                background.append(Window(window.image, 0, window.corners))
        if not objects or not background:
            what = "objects" if not objects else "background"
            raise CaffeSplitError(f"{path}: no window counts as {what}; Caffe needs one of each kind.")
        far = next((each for each in (*objects, *background) if not 0 <= each.image < len(self.images)), None)
        if far is not None:
            raise CaffeSplitError(f"{path}: image # {far.image} of {len(self.images)}; the images are numbered from 0.")
        count = int(np.float32(batch) * np.float32(share))
        self._kinds = [background] * (batch - count) + [objects] * count
        self.labels = np.array([0, *(window.label for window in objects)])

    def read(self, count: int) -> Records:
        """The next windows, each a `Stored` of (3, crop, crop), float32; and their labels."""
        images, labels = [], np.empty(count, np.float32)
        for index in range(count):
            window, mirrored = self._next()
            images.append(Stored(partial(self._load, window, mirrored), True))
            labels[index] = window.label
            self.skip(1)
        return images, labels

    def _next(self) -> tuple[Window, bool]:
        """The window at the present position, and whether it is mirrored."""
        number, row = divmod(self._position, self._batch)
        choice, turn = np.random.default_rng([self._seed, number]).random((self._batch, 2))[row]
        kind = self._kinds[row]
        return kind[int(choice * len(kind))], bool(self._mirror and turn < 0.5)

    def _load(self, window: Window, mirrored: bool) -> np.ndarray:
        file = self.images[window.image]
        try:
            image = np.asarray(decode_image(Path(file).read_bytes(), True))
            values, top, left = self._cut(image, window, mirrored)
        except (CaffeSplitError, OSError) as error:
            raise CaffeSplitError(f"{file}: {error}") from None
        part = (slice(None), slice(top, top + values.shape[1]), slice(left, left + values.shape[2]))
        mean = 0 if self._mean is None else self._mean if self._mean.shape[1] == 1 else self._mean[part]
        out = np.zeros((3, self._cut.crop, self._cut.crop), np.float32)
        out[part] = (values.astype(np.float32) - mean) * np.float32(self._scale)
        return out

    def skip(self, count: int) -> None:
        """Pass over `count` records."""
        self._position += count


def _listed(path: str, root: str, images: list[str]) -> Iterator[tuple[Window, np.float32, int]]:
    """(window, overlap, line) for all windows of a file, whose images are added to `images`."""
    words = (
        (word, number)
        for number, line in enumerate(Path(path).read_text(encoding="utf-8", errors="surrogateescape").splitlines(), 1)
        for word in line.split()
    )
    last = 1

    def take(what: str, kind: type = int) -> int:
        nonlocal last
        word, last = next(words, ("the end of the file", last))
        try:
            return kind(word)  # type: ignore[no-any-return]
        except ValueError:
            raise CaffeSplitError(f"{path}:{last}: {word!r}; expected {what}.") from None

    for word, last in words:
        if word != "#":
            raise CaffeSplitError(f"{path}:{last}: {word!r}; expected # and the number of an image.")
        index = take("the number of an image")
        name, last = next(words, ("", last))
        if not Path(root + name).is_file():
            raise CaffeSplitError(f"{path}:{last}: no image '{root + name}' seen from {Path.cwd()}.")
        images.append(root + name)
        channels = take("the image's channels")
        if channels != 3:
            raise CaffeSplitError(f"{path}:{last}: an image of {channels} channels; windows are read in colour, as 3.")
        take("its height"), take("its width")
        for _ in range(take("the number of its windows")):
            label, overlap = take("a class"), take("an overlap", float)
            corners = (take("x1"), take("y1"), take("x2"), take("y2"))
            yield Window(index, label, corners), np.float32(overlap), last
