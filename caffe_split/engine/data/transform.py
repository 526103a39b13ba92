"""Stored images to batches: what Caffe's DataTransformer does to images, mean, scale, crop and mirror."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from caffe_split.data.images import Picture
from caffe_split.engine.data.reader import Stored
from caffe_split.engine.data.workers import Run
from caffe_split.engine.kernels import picture
from caffe_split.engine.rows import Rows
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.binaryproto import read_blob
from caffe_split.net.options import Options


class Transformer:
    """Transforms images (C, height, width) as a layer's transform_param says, except for mean values and the scale.

    A mean image is subtracted before the crop, since each crop needs its own part of it. The mean values, one per
    channel, and the scale are left as `mean` and `scale` to be applied on the device, which is faster. Crops are random
    in TRAIN and central in TEST; mirroring is random in both. `shape` is that of the transformed images, or
    of the first one where it `varies`.

    Args:
        options: the transform_param.
        first: the shape of the first image.
        phase: TRAIN or TEST.
        seed: of crops and mirrors.
        where: the layer in error messages.
        alone: whether each image is a batch of its own, and so may have a size of its own.

    Raises `CaffeSplitError` for options that do not fit the images.
    """

    def __init__(
        self, options: Options, first: Sequence[int], phase: str, seed: int, where: str, *, alone: bool = False
    ) -> None:
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
        self.varies = alone and not self._crop and self._image is None

    def objection(self, shape: Sequence[int]) -> str:
        """What is wrong with an image of that shape, or "". Crops may be taken from images of several sizes."""
        if self._crop and self._image is None and shape[0] == self._first[0]:
            return f"has shape {shape}, less than its crop_size {self._crop}." if min(shape[1:]) < self._crop else ""
        if self.varies and shape[0] == self._first[0]:
            return ""
        return "" if shape == self._first else f"has shape {shape}, the first {self._first}; one batch holds one shape."

    def __call__(self, images: Sequence[Stored], number: int, rows: Rows, run: Run) -> np.ndarray:
        """Transform `images`, which are the rows `rows` of batch `number`, counted from 0.

        Returns (rows, *shape), with the image's own shape where it `varies`; uint8 where the images are and no mean
        image is subtracted, else float32. Its values are there when `run` has made all calls. Random choices depend on
        the seed, `number` and the place in the whole batch alone, so that any process and thread makes the same ones.
        """
        # For each image three numbers from 0 to 1: how far down and to the right the crop lies, and whether to mirror.
        draws = np.full((rows.count, 3), 0.5)
        if self._mirror or (self._crop and self._training):
            draws = np.random.default_rng([self._seed, number]).random((rows.whole, 3))[rows.slice]
        if not self._training:
            draws[:, :2] = 0.5
        if self.varies:
            # A batch of one, whose shape is known when it is decoded.
            return np.array(self._cut(images[0].load(), draws[0])[None], order="C")
        is_plain = self._image is None and not any(image.is_float for image in images)
        out = np.empty((len(images), *self.shape), np.uint8 if is_plain else np.float32)

        def place(index: int) -> None:
            image, draw = images[index].load(), draws[index]
            if is_plain and isinstance(image, Picture):
                top, left, *_ = self._part(image.shape, draw)
                if picture.cut(image, (top, left), self._turns(draw), out[index]):
                    return
            out[index] = self._cut(image, draw)

        run(place, len(images))
        return out

    def _cut(self, image: np.ndarray | Picture, draw: np.ndarray) -> np.ndarray:
        """The part of an image that its draw says, mirrored or not."""
        if self._image is not None:
            image = np.asarray(image, np.float32) - self._image
        top, left, height, width = self._part(image.shape, draw)
        if isinstance(image, Picture):
            image = image.cut(top, left, height, width)
        else:
            image = image[:, top : top + height, left : left + width]
        return image[:, :, ::-1] if self._turns(draw) else image

    def _part(self, shape: Sequence[int], draw: np.ndarray) -> tuple[int, int, int, int]:
        """Where the crop of an image of `shape` begins, row and column, and its height and width."""
        height, width = shape[1:]
        if not self._crop:
            return 0, 0, height, width
        spare = height - self._crop + self._training, width - self._crop + self._training
        return int(draw[0] * spare[0]), int(draw[1] * spare[1]), self._crop, self._crop

    def _turns(self, draw: np.ndarray) -> bool:
        return self._mirror and bool(draw[2] < 0.5)


class Stacker:
    """Makes a batch, float32, of images of one shape as they are; called as a `Transformer` is."""

    def __init__(self, shape: Sequence[int]) -> None:
        self._shape = tuple(shape)

    def __call__(self, images: Sequence[Stored], number: int, rows: Rows, run: Run) -> np.ndarray:
        """The images as (rows, *shape). Its values are there when `run` has made all calls."""
        out = np.empty((len(images), *self._shape), np.float32)

        def place(index: int) -> None:
            out[index] = images[index].load()

        run(place, len(images))
        return out
