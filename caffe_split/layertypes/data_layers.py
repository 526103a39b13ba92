"""Layers that give data: what their settings or their data set tell."""

from __future__ import annotations

from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.layertypes.rule import Found, Shape, Untold, param_of
from caffe_split.net.layers import Layer


def give_input(layer: Layer, bottoms: list[Shape]) -> Found:
    param = param_of(layer, "dummy_data_param" if layer.type == "DummyData" else "input_param")
    shapes = [tuple(int(d) for d in shape.get_all("dim")) for shape in param.subs("shape")]
    if not shapes and layer.type == "DummyData":
        sides = [param.get_all(key) for key in ("num", "channels", "height", "width")]
        shapes = [tuple(map(int, shape)) for shape in zip(*sides)]
    if not shapes:
        raise Untold("it gives no shape")
    return Found([shapes[min(i, len(shapes) - 1)] for i in range(len(layer.tops))])


def parameter(layer: Layer, bottoms: list[Shape]) -> Found:
    shape = param_of(layer, "parameter_param").sub("shape")
    if shape is None:
        raise Untold("it gives no shape")
    dims = tuple(int(d) for d in shape.get_all("dim"))
    return Found([dims], [dims])


def data(layer: Layer, bottoms: list[Shape]) -> Found:
    """From the first record of the data set."""
    from caffe_split.data import store  # Only nets with a Data layer need lmdb.

    param = param_of(layer, "data_param")
    source = Path(str(param.get("source", "")))
    if not store.is_store(source):
        what = "LevelDB data sets are not read" if _is_level(param, source) else f"seen from {Path.cwd()}"
        raise Untold(f"its data set '{source}' is not there, {what}" if "seen" in what else f"'{source}': {what}")
    try:
        image = store.first_shape(source, _color(layer))
    except CaffeSplitError as error:
        raise Untold(str(error)) from error
    return _images(layer, int(param.get("batch_size", 1)), image)


def _color(layer: Layer) -> bool | None:
    """How encoded images are decoded: in colour, in gray, or as they are."""
    transform = layer.message.sub("transform_param")
    if transform is None or not (transform.get("force_color", False) or transform.get("force_gray", False)):
        return None
    return bool(transform.get("force_color", False))


def _is_level(param: prototxt.Message, source: Path) -> bool:
    return str(param.get("backend", "LEVELDB")) == "LEVELDB" and source.is_dir()


def memory_data(layer: Layer, bottoms: list[Shape]) -> Found:
    param = param_of(layer, "memory_data_param")
    batch, *image = (int(param.get(key, 0)) for key in ("batch_size", "channels", "height", "width"))
    return _images(layer, batch, (image[0], image[1], image[2]))


def image_data(layer: Layer, bottoms: list[Shape]) -> Found:
    """From new_height and new_width, or from crop_size; without either the images' own sizes count."""
    param = param_of(layer, "image_data_param")
    height, width = int(param.get("new_height", 0)), int(param.get("new_width", 0))
    if not (height and width) and not _crop(layer):
        raise Untold("it gives no new_height and new_width; the size is that of its images")
    return _images(layer, int(param.get("batch_size", 1)), (3 if param.get("is_color", True) else 1, height, width))


def window_data(layer: Layer, bottoms: list[Shape]) -> Found:
    """crop_size, and the channels that the first window of its file names."""
    param = param_of(layer, "window_data_param")
    crop = _crop(layer) or int(param.get("crop_size", 0))
    source = Path(str(param.get("source", "")))
    if not source.is_file():
        raise Untold(f"its window file '{source}' is not there, seen from {Path.cwd()}")
    words = source.read_text(encoding="utf-8", errors="replace").split()[:4]
    if len(words) < 4 or not words[3].isdigit():
        raise Untold(f"its window file '{source}' does not begin with '# 0', an image and its channels")
    batch = int(param.get("batch_size", 1))
    return Found([(batch, int(words[3]), crop, crop), (batch,)])


def hdf5_data(layer: Layer, bottoms: list[Shape]) -> Found:
    """From the data sets, named as the tops, of the first file that its list names."""
    param = param_of(layer, "hdf5_data_param")
    listing = Path(str(param.get("source", "")))
    if not listing.is_file():
        raise Untold(f"its list of files '{listing}' is not there, seen from {Path.cwd()}")
    first = next(iter(listing.read_text(encoding="utf-8", errors="replace").split()), "")
    if not Path(first).is_file():
        raise Untold(f"'{first}', which '{listing}' names first, is not there, seen from {Path.cwd()}")
    try:
        import h5py
    except ImportError:
        raise Untold("h5py is not installed; pip install 'caffe-split[hdf5]'") from None
    with h5py.File(first, "r") as stream:
        lacking = [top for top in layer.tops if top not in stream]
        if lacking:
            raise Untold(f"'{first}' has no data set '{lacking[0]}'")
        batch = int(param.get("batch_size", 1))
        return Found([(batch, *map(int, stream[top].shape[1:])) for top in layer.tops])


def _crop(layer: Layer) -> int:
    transform = layer.message.sub("transform_param")
    return int(transform.get("crop_size", 0)) if transform else 0


def _images(layer: Layer, batch: int, image: tuple[int, int, int]) -> Found:
    channels, height, width = image
    crop = _crop(layer)
    if crop:
        height = width = crop
    shapes: list[Shape] = [(batch, channels, height, width), (batch,)]
    return Found(shapes[: len(layer.tops)])
