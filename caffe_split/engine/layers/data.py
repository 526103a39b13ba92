"""Layers that give data from files, which threads read ahead."""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from typing_extensions import override

from caffe_split.engine.data.feeder import Feeder
from caffe_split.engine.data.hdf5 import Hdf5Reader
from caffe_split.engine.data.images import ImageListReader, ImageReader, StoreReader
from caffe_split.engine.data.leveldb import LevelReader
from caffe_split.engine.data.transform import Stacker, Transformer
from caffe_split.engine.data.windows import Cut, WindowReader
from caffe_split.engine.data.workers import count_for
from caffe_split.engine.layers.base import Shape, Tops
from caffe_split.engine.layers.data_layer import DataLayer
from caffe_split.formats.weights.binaryproto import read_blob
from caffe_split.net.options import Options


class _Fed(DataLayer):
    """A layer whose batches threads make ready."""

    feeder: Feeder

    @override
    def go_to(self, number: int) -> None:
        self.feeder.go_to(number)

    def batch_size(self) -> int:
        """The written batch_size. Raises `CaffeSplitError` unless it is above 0."""
        size = int(self.options.get("batch_size") or 0)
        if size < 1:
            raise self.error("batch_size is missing or 0.")
        return size

    def _move(self, values: torch.Tensor) -> torch.Tensor:
        if self.place.device.type == "cuda":
            return values.pin_memory().to(self.place.device, non_blocking=True)
        return values

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        return tuple(self._move(torch.from_numpy(array)) for array in self.feeder.next())


# Values of a batch from memory up to which a thread costs more than it saves: it and the net would wait for each other.
_QUICK = 1 << 14


class _Images(_Fed):
    """Images and labels. Mean values and the scale are applied on the device."""

    def reader(self) -> ImageReader:
        """A reader of the layer's records. Raises `CaffeSplitError`."""
        raise NotImplementedError

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        rows, reader = self.rows(self.batch_size()), self.reader()
        transform = Options.of(self.text.message, "transform_param")
        self.transformer = Transformer(
            transform, reader.shape, self.place.phase, self.place.seed, self.text.where, alone=rows.whole == 1
        )
        self.varies = self.transformer.varies
        reader.objection = self.transformer.objection
        ahead = max(1, min(int(Options.of(self.text.message, "data_param").get("prefetch")), 4))
        if reader.stays and rows.count * math.prod(self.transformer.shape) <= _QUICK:
            ahead = 0
        self.feeder = Feeder(reader, rows, ahead=ahead, transform=self.transformer, workers=count_for(reader.decodes))
        self.top_shapes = [(rows.count, *self.transformer.shape), (rows.count,)][: len(self.text.tops)]
        mean = self.transformer.mean
        self.buffers = [torch.tensor(mean).view(1, -1, 1, 1)] if mean else []

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        images, labels = super().run()
        images = images.float()
        if self.buffers:
            images = images - self.buffers[0]
        if self.transformer.scale != 1:
            images = images * self.transformer.scale
        return (images, labels)[: len(self.text.tops)]


class Data(_Images):
    """Images and labels from an LMDB or a LevelDB."""

    options_name = "data_param"

    @override
    def reader(self) -> ImageReader:
        transform = Options.of(self.text.message, "transform_param")
        color, gray = (bool(transform.get(name)) for name in ("force_color", "force_gray"))
        reader = LevelReader if self.options.get("backend") == "LEVELDB" else StoreReader
        return reader(str(self.options.get("source")), color if color or gray else None)


class ImageData(_Images):
    """Images and labels from files that a text file lists."""

    options_name = "image_data_param"

    @override
    def labels(self, top: str) -> np.ndarray | None:
        return self.list.labels() if top == self.text.tops[1] else None

    @override
    def reader(self) -> ImageReader:
        get = self.options.get
        size = (int(get("new_height")), int(get("new_width")))
        self.list = ImageListReader(
            str(get("source")),
            str(get("root_folder")),
            bool(get("is_color")),
            size if all(size) else None,
            shuffle=bool(get("shuffle")),
            skip=int(get("rand_skip")),
            seed=self.place.seed,
        )
        return self.list


class WindowData(_Fed):
    """Windows of images, cut out and warped to one size, background and objects in each batch."""

    options_name = "window_data_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        rows, get = self.rows(self.batch_size()), self.options.get
        transform = Options.of(self.text.message, "transform_param")
        crop = int(transform.get("crop_size"))
        self.windows = WindowReader(
            str(get("source")),
            str(get("root_folder")),
            (float(get("fg_threshold")), float(get("bg_threshold"))),
            batch=rows.whole,
            share=float(get("fg_fraction")),
            cut=Cut(crop, int(get("context_pad")), get("crop_mode") == "square"),
            mirror=bool(transform.get("mirror")),
            mean=self._mean(transform, crop),
            scale=float(get("scale")),
            seed=self.place.seed,
        )
        self.feeder = Feeder(
            self.windows, rows, ahead=3, transform=Stacker((3, crop, crop)), workers=count_for(decodes=True)
        )
        self.top_shapes = [(rows.count, 3, crop, crop), (rows.count,)]

    def _mean(self, transform: Options, crop: int) -> np.ndarray | None:
        """What is subtracted, (3, 1, 1) or (3, crop, crop); None for nothing. Raises `CaffeSplitError`."""
        values = [float(value) for value in transform.all("mean_value")]
        if transform.has("mean_file"):
            mean = read_blob(str(transform.get("mean_file")))
            mean = mean.reshape(mean.shape[-3:])
            # Caffe takes the middle of the width for the height, too.
            start = (mean.shape[-1] - crop) // 2
            if values or len(mean) != 3 or start < 0 or start + crop > mean.shape[1]:
                raise self.error(
                    f"a mean_file of shape {mean.shape}{' beside mean_value' if values else ''}; expected 3 channels, "
                    f"and at least the crop_size of {crop}."
                )
            return mean[:, start : start + crop, start : start + crop]
        if len(values) not in (0, 1, 3):
            raise self.error(f"{len(values)} mean values; expected one, or one for each of 3.")
        return np.array(values * (3 // len(values)), np.float32).reshape(3, 1, 1) if values else None

    @override
    def labels(self, top: str) -> np.ndarray | None:
        return self.windows.labels if top == self.text.tops[1] else None


class HDF5Data(_Fed):
    """Rows of HDF5 data sets named as the tops, untransformed."""

    options_name = "hdf5_data_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        rows, get = self.rows(self.batch_size()), self.options.get
        self.files = Hdf5Reader(str(get("source")), self.text.tops, shuffle=bool(get("shuffle")), seed=self.place.seed)
        self.feeder = Feeder(self.files, rows, ahead=2)
        self.top_shapes = [(rows.count, *shape) for shape in self.files.shapes]

    @override
    def labels(self, top: str) -> np.ndarray | None:
        return None if math.prod(self.top_shapes[self.text.tops.index(top)][1:]) > 1 else self.files.column(top)
