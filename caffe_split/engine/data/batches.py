"""Records as batches, transformed as Caffe's DataTransformer does, made ready by a thread of their own."""

from __future__ import annotations

import queue
import threading
from collections.abc import Sequence
from typing import Any

import numpy as np

from caffe_split.engine.data.readers import Reader
from caffe_split.engine.parallel.group import Rows
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.binaryproto import read_blob
from caffe_split.net.options import Options

Batch = tuple[np.ndarray, ...]


class Transformer:
    """Caffe's transform_param on images of (channels, height, width); `mean` and `scale` are left to the device.

    A mean image is subtracted before the crop, each crop meeting its own part of it; mean values and the scale can
    wait until the values are on the device, where there are more hands. Crops are random in TRAIN and central in
    TEST, mirrors random in both. `shape` is what comes out.
    """

    def __init__(self, options: Options, first: Sequence[int], phase: str, seed: int, where: str) -> None:
        self._seed = seed
        self._first = tuple(first)
        self._training = phase == "TRAIN"
        self._crop = int(options.get("crop_size"))
        self._mirror = bool(options.get("mirror"))
        self.scale = float(options.get("scale"))
        channels, height, width = self._first
        values = [float(value) for value in options.all("mean_value")]
        self._image: np.ndarray | None = None
        if options.has("mean_file"):
            if values:
                raise CaffeSplitError(f"{where}: mean_file and mean_value; Caffe takes one of them.")
            self._image = read_blob(str(options.get("mean_file")))
            if self._image.size != channels * height * width:
                raise CaffeSplitError(
                    f"{where}: {options.get('mean_file')} has shape {self._image.shape}, the images {self._first}."
                )
            self._image = self._image.reshape(self._first)
        if len(values) not in (0, 1, channels):
            raise CaffeSplitError(f"{where}: {len(values)} mean values; expected one, or one for each of {channels}.")
        self.mean = values * channels if len(values) == 1 else values
        if self._crop > min(height, width):
            raise CaffeSplitError(f"{where}: crop_size {self._crop} is larger than the images of {self._first}.")
        self.shape = (channels, self._crop, self._crop) if self._crop else (channels, height, width)

    def objection(self, shape: Sequence[int]) -> str:
        """What is wrong with an image of that shape, if it is. Crops may come from images of many sizes."""
        if self._crop and self._image is None and shape[0] == self._first[0]:
            return f"has shape {shape}, less than its crop_size {self._crop}." if min(shape[1:]) < self._crop else ""
        return "" if shape == self._first else f"has shape {shape}, the first {self._first}; one batch holds one shape."

    def __call__(self, images: Sequence[np.ndarray], number: int, rows: Rows) -> np.ndarray:
        """Transform `rows` of batch `number`: uint8 where they are and no mean image is subtracted, else float32.

        What is random comes from the seed, the batch's number and the place in the whole batch, so that any process
        draws it alike, at any time.
        """
        plain = self._image is None and all(image.dtype == np.uint8 for image in images)
        out = np.empty((len(images), *self.shape), np.uint8 if plain else np.float32)
        # For each image how far down and right it is cut, and whether it is turned, as parts of 1.
        draws = np.random.default_rng([self._seed, number]).random((rows.whole, 3))[rows.slice]
        if not self._training:
            draws[:, :2] = 0.5
        for index, (image, (down, right, turn)) in enumerate(zip(images, draws)):
            if self._image is not None:
                image = image.astype(np.float32) - self._image
            if self._crop:
                top, left = (
                    int(part * (side - self._crop + self._training))
                    for part, side in zip((down, right), image.shape[1:])
                )
                image = image[:, top : top + self._crop, left : left + self._crop]
            out[index] = image[:, :, ::-1] if self._mirror and turn < 0.5 else image
        return out


class Feeder:
    """Batches made ready ahead by a thread, an array a top; an error there is raised where the batch is asked for."""

    def __init__(self, reader: Reader, rows: Rows, ahead: int, transformer: Transformer | None = None) -> None:
        self._reader, self._transformer, self._rows = reader, transformer, rows
        self._number = 0
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(max(1, ahead))
        self._thread: threading.Thread | None = None

    def go_to(self, number: int) -> None:
        """Let the next batch be number `number`, counted from 0. Only before the first."""
        assert self._thread is None
        self._reader.skip(number * self._rows.whole)
        self._number = number

    def _make(self) -> Batch:
        rows = self._rows
        self._reader.skip(rows.first)
        first: Any
        first, *others = self._reader.read(rows.count)
        self._reader.skip(rows.whole - rows.first - rows.count)
        if self._transformer is not None:
            first = self._transformer(first, self._number, rows)
        self._number += 1
        return tuple(map(np.asarray, (first, *others)))

    def _work(self) -> None:
        try:
            while True:
                self._ready.put(self._make())
        except BaseException as error:
            self._ready.put(error)

    def next(self) -> Batch:
        """The next batch. Raises `CaffeSplitError` for records that cannot be read, or are not as the first."""
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        got = self._ready.get()
        if isinstance(got, BaseException):
            raise got
        return got
