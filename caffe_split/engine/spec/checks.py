"""What is refused of a layer beside its fields and numbers of blobs: values, and files that are not there."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable, Iterator
from pathlib import Path

from caffe_split.data.store import is_store
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def one_of(message: str, name: str, *handled: str) -> Callable[[Layer], Iterator[str]]:
    """Refuse the values of an enum that are not handled."""

    def check(layer: Layer) -> Iterator[str]:
        value = Options.of(layer.message, message).get(name)
        if value not in handled:
            yield f"{name}: {value} is not handled; {' and '.join(handled)} are"

    return check


def data(layer: Layer) -> Iterator[str]:
    """A Data layer: its store, what is asked of its images."""
    options = Options.of(layer.message, "data_param")
    if options.get("backend") != "LMDB":
        written = "" if options.has("backend") else " (Caffe's default, as none is written)"
        yield (
            f"backend: {options.get('backend')}{written} is not handled; write the data set anew as an LMDB "
            "(convert_imageset --backend lmdb), and backend: LMDB"
        )
    elif not is_store(str(options.get("source"))):
        yield (
            f"source: no LMDB at '{options.get('source')}' seen from {Path.cwd()}; paths are relative to the folder in "
            "which the training is started"
        )
    transform = Options.of(layer.message, "transform_param")
    if transform.get("force_color") and transform.get("force_gray"):
        yield "force_color and force_gray; Caffe takes one of them"
    yield from _mean(layer)


def _mean(layer: Layer) -> Iterator[str]:
    mean = Options.of(layer.message, "transform_param").get("mean_file")
    if mean and not Path(mean).is_file():
        yield f"mean_file: no file '{mean}' seen from {Path.cwd()}"


def _listed(message: str) -> Callable[[Layer], Iterator[str]]:
    """The text file that lists a layer's files."""

    def check(layer: Layer) -> Iterator[str]:
        source = Options.of(layer.message, message).get("source")
        if not Path(source or "").is_file():
            yield f"source: no file '{source}' seen from {Path.cwd()}"

    return check


def image_data(layer: Layer) -> Iterator[str]:
    """An ImageData layer: its sizes and its list."""
    options = Options.of(layer.message, "image_data_param")
    if bool(options.get("new_height")) != bool(options.get("new_width")):
        yield "new_height and new_width go together; one of them is missing or 0"
    yield from _listed("image_data_param")(layer)
    yield from _mean(layer)


def hdf5_data(layer: Layer) -> Iterator[str]:
    """An HDF5Data layer: its list, and whether such files can be read here."""
    if layer.message.has("transform_param"):
        yield "HDF5Data does not transform; take transform_param out"
    if importlib.util.find_spec("h5py") is None:
        yield "HDF5Data needs h5py: pip install 'caffe-split[hdf5]'"
    yield from _listed("hdf5_data_param")(layer)


def infogain(layer: Layer) -> Iterator[str]:
    """An InfogainLoss layer: its matrix, where that is no bottom."""
    source = Options.of(layer.message, "infogain_loss_param").get("source")
    if len(layer.bottoms) < 3 and not Path(source or "").is_file():
        yield f"source: no file '{source}' seen from {Path.cwd()}"


def scale(layer: Layer) -> Iterator[str]:
    """A Scale layer: the axes of its own factors."""
    if len(layer.bottoms) == 1 and layer.message.has("scale_param"):
        options = Options.of(layer.message, "scale_param")
        if options.get("num_axes") < -1:
            yield f"num_axes: {options.get('num_axes')}; expected -1 or more"
