"""Records of LMDBs as batches, transformed as Caffe's DataTransformer does, made ready by a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.data.store import open_store
from caffe_split.engine.group import Rows
from caffe_split.engine.options import Options
from caffe_split.errors import CaffeSplitError
from caffe_split.proto import blob as blobs
from caffe_split.proto.binaryfile import map_file
from caffe_split.proto.datum import decode_datum


def read_blob(path: str) -> np.ndarray:
    """The array of a BlobProto file, such as a mean image. Raises `CaffeSplitError`."""
    buffer = map_file(path)
    try:
        values: np.ndarray = blobs.array(buffer, blobs.locate(buffer, 0, len(buffer)))
    except (blobs.BlobError, ValueError) as error:
        raise CaffeSplitError(f"{path}: expected a BlobProto, such as a mean image: {error}") from None
    return np.array(values, np.float32)


@dataclass(frozen=True)
class Batch:
    """images: (N, C, height, width), uint8, or float32 where a mean image is subtracted already; labels: (N,)."""

    images: np.ndarray
    labels: np.ndarray


class Store:
    """The samples of an LMDB in key order, over and over, as Caffe's Data layer reads them.

    Raises `CaffeSplitError` for a store that is not there, is empty, or holds anything but raw uint8 records of one
    shape.
    """

    def __init__(self, path: str) -> None:
        self.path = path
        self._store = open_store(path)
        self._cursor = self._store.begin(buffers=False).cursor()
        self.entries = int(self._store.stat()["entries"])
        if not self.entries:
            raise CaffeSplitError(f"{self.path}: the LMDB holds no record.")
        first, _ = self._decode(self._next(), 0)
        self.shape: tuple[int, int, int] = first.shape
        self._cursor = self._store.begin(buffers=False).cursor()
        self._count = 0

    def _step(self) -> None:
        if not self._cursor.next():
            self._cursor.first()

    def _next(self) -> bytes:
        self._step()
        value: bytes = self._cursor.value()
        return value

    def skip(self, count: int) -> None:
        """Pass over `count` samples, which are not read."""
        for _ in range(count % self.entries):
            self._step()
        self._count += count

    def _decode(self, record: bytes, index: int) -> tuple[np.ndarray, int]:
        try:
            return decode_datum(record)
        except CaffeSplitError as error:
            raise CaffeSplitError(f"{self.path}: record {index}: {error}") from None

    def read(self, count: int) -> Batch:
        """The next `count` samples."""
        images = np.empty((count, *self.shape), np.uint8)
        labels = np.empty(count, np.float32)
        for index in range(count):
            image, labels[index] = self._decode(self._next(), self._count)
            if image.shape != self.shape:
                raise CaffeSplitError(
                    f"{self.path}: record {self._count} has shape {image.shape}, the first {self.shape}; one batch "
                    "holds one shape."
                )
            images[index] = image
            self._count += 1
        return Batch(images, labels)


class Transformer:
    """Caffe's transform_param on whole batches; what is left to the device is `mean` and `scale`.

    A mean image is subtracted before the crop, each crop meeting its own part of it; mean values and the scale can
    wait until the values are on the device, where there are more hands. Crops are random in TRAIN and central in
    TEST, mirrors random in both.
    """

    def __init__(self, options: Options, shape: Sequence[int], phase: str, seed: int, where: str) -> None:
        self._seed = seed
        self._training = phase == "TRAIN"
        self._crop = int(options.get("crop_size"))
        self._mirror = bool(options.get("mirror"))
        self.scale = float(options.get("scale"))
        channels, self._height, self._width = shape
        values = [float(value) for value in options.all("mean_value")]
        self._image: np.ndarray | None = None
        if options.has("mean_file"):
            if values:
                raise CaffeSplitError(f"{where}: mean_file and mean_value; Caffe takes one of them.")
            self._image = read_blob(str(options.get("mean_file")))
            if self._image.size != channels * self._height * self._width:
                raise CaffeSplitError(
                    f"{where}: {options.get('mean_file')} has shape {self._image.shape}, the images {tuple(shape)}."
                )
            self._image = self._image.reshape(tuple(shape))
        if len(values) not in (0, 1, channels):
            raise CaffeSplitError(f"{where}: {len(values)} mean values; expected one, or one for each of {channels}.")
        self.mean = values * channels if len(values) == 1 else values
        if self._crop > min(self._height, self._width):
            raise CaffeSplitError(f"{where}: crop_size {self._crop} is larger than the images of {tuple(shape)}.")
        self.shape = (channels, self._crop, self._crop) if self._crop else (channels, self._height, self._width)

    def __call__(self, images: np.ndarray, number: int, rows: Rows) -> np.ndarray:
        """Transform `rows` of batch `number`.

        What is random comes from the seed, the batch's number and the place in the whole batch, so that any process
        draws it alike, at any time.
        """
        count = len(images)
        if self._image is not None:
            images = images.astype(np.float32) - self._image
        if not self._crop and not self._mirror:
            return images
        random = np.random.default_rng([self._seed, number])
        size = self._crop or None
        if size is None:
            tops = lefts = np.zeros(count, int)
        elif self._training:
            tops = random.integers(self._height - size + 1, size=rows.whole)[rows.slice]
            lefts = random.integers(self._width - size + 1, size=rows.whole)[rows.slice]
        else:
            tops = np.full(count, (self._height - size) // 2)
            lefts = np.full(count, (self._width - size) // 2)
        flips = random.integers(2, size=rows.whole)[rows.slice] if self._mirror else np.zeros(count, int)
        out = np.empty((count, *self.shape), images.dtype)
        for index in range(count):
            top, left = tops[index], lefts[index]
            cut = images[index, :, top : top + self.shape[1], left : left + self.shape[2]]
            out[index] = cut[:, :, ::-1] if flips[index] else cut
        return out


class Feeder:
    """Batches made ready ahead by a thread; an error there is raised where the batch is asked for."""

    def __init__(self, store: Store, transformer: Transformer, rows: Rows, ahead: int) -> None:
        self._store, self._transformer, self._rows = store, transformer, rows
        self._number = 0
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(max(1, ahead))
        self._thread: threading.Thread | None = None

    def go_to(self, number: int) -> None:
        """Let the next batch be number `number`, counted from 0. Only before the first."""
        assert self._thread is None
        self._store.skip(number * self._rows.whole)
        self._number = number

    def _make(self) -> Batch:
        rows = self._rows
        self._store.skip(rows.first)
        batch = self._store.read(rows.count)
        self._store.skip(rows.whole - rows.first - rows.count)
        images = self._transformer(batch.images, self._number, rows)
        self._number += 1
        return Batch(images, batch.labels)

    def _work(self) -> None:
        try:
            while True:
                self._ready.put(self._make())
        except BaseException as error:
            self._ready.put(error)

    def next(self) -> Batch:
        """The next batch. Raises `CaffeSplitError` for records that are not as the first."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        got = self._ready.get()
        if isinstance(got, BaseException):
            raise got
        return got
