"""What the engine refuses of layers that read and write data: of their text, and of the files that they name."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Iterator
from pathlib import Path

from caffe_split.data import is_leveldb, is_store
from caffe_split.layertypes.checks import file_there
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

_STORES = {"LMDB": "an LMDB", "LEVELDB": "a LevelDB"}


def check_data(layer: Layer) -> Iterator[str]:
    """A transform that Caffe takes."""
    transform = Options.of(layer.message, "transform_param")
    if transform.get("force_color") and transform.get("force_gray"):
        yield "force_color and force_gray; Caffe takes one of them"


def data_there(layer: Layer) -> Iterator[str]:
    """An LMDB or LevelDB that is there."""
    from caffe_split.data.leveldb import NO_PLYVEL, can_read

    options = Options.of(layer.message, "data_param")
    source, backend = str(options.get("source")), str(options.get("backend"))
    there = {"LMDB": is_store(source), "LEVELDB": is_leveldb(source)}
    written = "" if options.has("backend") else " (Caffe's default, as none is written)"
    other = next((name for name, found in there.items() if found), "")
    if not there[backend] and other:
        yield f"backend: {backend}{written}, but '{source}' is {_STORES[other]}; write backend: {other}"
    elif not there[backend]:
        yield (
            f"source: no {_STORES[backend].split()[1]}{written} at '{source}' seen from {Path.cwd()}; "
            "paths are relative to the folder in which the training is started"
        )
    elif backend == "LEVELDB" and not can_read():
        yield f"{NO_PLYVEL}, or caffe-split data lmdb writes the data set as an LMDB where plyvel is installed"
    yield from _mean_there(layer)


def _mean_there(layer: Layer) -> Iterator[str]:
    if Options.of(layer.message, "transform_param").get("mean_file"):
        yield from file_there("transform_param", "mean_file")(layer)


def check_image_data(layer: Layer) -> Iterator[str]:
    """Sizes that go together."""
    options = Options.of(layer.message, "image_data_param")
    if bool(options.get("new_height")) != bool(options.get("new_width")):
        yield "new_height and new_width go together; one of them is missing or 0"


def images_there(layer: Layer) -> Iterator[str]:
    """A list of images that is there."""
    yield from file_there("image_data_param")(layer)
    yield from _mean_there(layer)


def check_hdf5_data(layer: Layer) -> Iterator[str]:
    """No transform."""
    if layer.message.has("transform_param"):
        yield "HDF5Data does not transform; take transform_param out"


def hdf5_there(layer: Layer) -> Iterator[str]:
    """A list of files that is there, and h5py."""
    if importlib.util.find_spec("h5py") is None:
        yield "HDF5Data needs h5py: pip install h5py"
    yield from file_there("hdf5_data_param")(layer)


def check_hdf5_output(layer: Layer) -> Iterator[str]:
    """A file to write."""
    if not Options.of(layer.message, "hdf5_output_param").get("file_name"):
        yield "hdf5_output_param gives no file_name"


def hdf5_output_free(layer: Layer) -> Iterator[str]:
    """A file that is not there yet, and h5py."""
    name = str(Options.of(layer.message, "hdf5_output_param").get("file_name"))
    if name and os.path.lexists(name):
        yield f"file_name: '{name}' exists, and Caffe would overwrite it: remove it, or name another file"
    if importlib.util.find_spec("h5py") is None:
        yield "HDF5Output needs h5py: pip install h5py"


def check_window_data(layer: Layer) -> Iterator[str]:
    """Settings of which something is left."""
    options, transform = (Options.of(layer.message, name) for name in ("window_data_param", "transform_param"))
    crop = int(transform.get("crop_size"))
    if crop < 1:
        yield "transform_param gives no crop_size, to which windows are warped"
    elif 2 * int(options.get("context_pad")) >= crop:
        yield f"context_pad: {options.get('context_pad')} on both sides leaves nothing of a crop_size of {crop}"
    if not 0 <= float(options.get("fg_fraction")) <= 1:
        yield f"fg_fraction: {options.get('fg_fraction'):g}; expected a share from 0 to 1"
    if transform.has("scale"):
        yield (
            "transform_param.scale, which Caffe's WindowData does not read: take it out to train as Caffe does, or "
            "write it into window_data_param"
        )


def windows_there(layer: Layer) -> Iterator[str]:
    """A window file that is there."""
    yield from file_there("window_data_param")(layer)
    yield from _mean_there(layer)
