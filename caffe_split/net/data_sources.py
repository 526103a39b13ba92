"""The fields of layers that name data: sets, lists, and files."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple

from caffe_split.formats import prototxt
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


class Source(NamedTuple):
    """Where a type's `source` stands, the name of the message, and what it names, in words."""

    message: str
    what: str


# By the type of the layer.
SOURCES = {
    "Data": Source("data_param", "data set"),
    "ImageData": Source("image_data_param", "list of images"),
    "HDF5Data": Source("hdf5_data_param", "list of HDF5 files"),
    "WindowData": Source("window_data_param", "window file"),
    "InfogainLoss": Source("infogain_loss_param", "matrix"),
}
# The messages that have a `mean_file`. All but the last have it from old nets.
_MEANS = ("data_param", "image_data_param", "window_data_param", "transform_param")
# Those that have a `batch_size`.
BATCHES = ("data_param", "image_data_param", "hdf5_data_param", "window_data_param", "memory_data_param")
# Those whose `root_folder` Caffe puts before each name of a list, as it is written.
ROOTS = ("image_data_param", "window_data_param")


def source_of(layer: Layer) -> str:
    """A layer's `source`, or ""; of a type that is in `SOURCES`."""
    return str(Options.of(layer.message, SOURCES[layer.type].message).get("source") or "")


def mean_files(layer: Layer) -> Iterator[str]:
    """The mean files that a layer of its type reads."""
    own = SOURCES.get(layer.type)
    for param in ("transform_param", *(() if own is None else (own.message,))):
        name = Options.of(layer.message, param).get("mean_file") if param in _MEANS else ""
        if name:
            yield str(name)


def named_files(layer: Layer) -> Iterator[tuple[prototxt.Message, str]]:
    """The fields of a layer that name files or data sets, as they are written: the message and the field's name."""
    own = {source.message for source in SOURCES.values()}
    for param in (*own, "transform_param"):
        message = layer.message.sub(param)
        if message is not None:
            keys = [*(["source"] if param in own else []), *(["mean_file"] if param in _MEANS else [])]
            yield from ((message, key) for key in keys if message.has(key))
