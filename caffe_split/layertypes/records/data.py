"""Layers that give data, and Parameter: their shapes come from their settings or from their data set."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from caffe_split.data import is_leveldb, is_store
from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes import batch_rules
from caffe_split.layertypes.batch_rules import BatchKind, BatchRule, MixedRecordsError, Shapes
from caffe_split.layertypes.data_checks import (
    check_data,
    check_hdf5_data,
    check_hdf5_output,
    check_image_data,
    check_window_data,
    data_there,
    hdf5_output_free,
    hdf5_there,
    images_there,
    windows_there,
)
from caffe_split.layertypes.record import ANY, Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, UnknownShapeError, need_bottoms
from caffe_split.layertypes.words import size, tops
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options, shape_of

# -- shapes


def _given(layer: Layer, bottoms: list[Shape]) -> Found:
    """Input and DummyData: the shapes that are written, the last for all further tops."""
    param = Options.of(layer.message, "dummy_data_param" if layer.type == "DummyData" else "input_param")
    shapes = [shape_of(shape) for shape in param.subs("shape")]
    if not shapes and layer.type == "DummyData":
        sides = [param.all(key) for key in ("num", "channels", "height", "width")]
        shapes = [tuple(map(int, shape)) for shape in zip(*sides)]
    if not shapes:
        raise UnknownShapeError("it gives no shape")
    return Found([shapes[min(i, len(shapes) - 1)] for i in range(len(layer.tops))])


def _parameter(layer: Layer, bottoms: list[Shape]) -> Found:
    param = Options.of(layer.message, "parameter_param")
    if not param.has("shape"):
        raise UnknownShapeError("it gives no shape")
    shape = shape_of(param.sub("shape"))
    return Found([shape], [shape])


def _data(layer: Layer, bottoms: list[Shape]) -> Found:
    """From the first record of the data set."""
    param = Options.of(layer.message, "data_param")
    source = Path(param.get("source"))
    # Whichever is there: a backend that does not fit is refused where the net is run.
    if not (is_store(source) or is_leveldb(source)):
        raise UnknownShapeError(f"its data set '{source}' is not there, seen from {Path.cwd()}")
    # Only nets whose data set is there need lmdb or plyvel.
    from caffe_split.data import leveldb, store

    try:
        first_shape = store.first_shape if is_store(source) else leveldb.first_leveldb_shape
        image = first_shape(source, _color(layer))
    except CaffeSplitError as error:
        raise UnknownShapeError(str(error)) from error
    return _images(layer, int(param.get("batch_size")) if param.has("batch_size") else 1, image)


def _color(layer: Layer) -> bool | None:
    """How encoded images are decoded: in colour, in gray, or as they are."""
    transform = Options.of(layer.message, "transform_param")
    if not (transform.get("force_color") or transform.get("force_gray")):
        return None
    return bool(transform.get("force_color"))


def _memory_data(layer: Layer, bottoms: list[Shape]) -> Found:
    param = Options.of(layer.message, "memory_data_param")
    batch, channels, height, width = (int(param.get(key)) for key in ("batch_size", "channels", "height", "width"))
    return _images(layer, batch, (channels, height, width))


def _image_data(layer: Layer, bottoms: list[Shape]) -> Found:
    """From new_height and new_width, or from crop_size; without either the images' own sizes count."""
    param = Options.of(layer.message, "image_data_param")
    height, width = int(param.get("new_height")), int(param.get("new_width"))
    if not (height and width) and not _crop(layer):
        raise UnknownShapeError("it gives no new_height and new_width; the size is that of its images")
    return _images(layer, int(param.get("batch_size")), (3 if param.get("is_color") else 1, height, width))


def _window_data(layer: Layer, bottoms: list[Shape]) -> Found:
    """crop_size, and the channels that the first window of its file names."""
    param = Options.of(layer.message, "window_data_param")
    crop = _crop(layer) or int(param.get("crop_size"))
    source = Path(param.get("source"))
    if not source.is_file():
        raise UnknownShapeError(f"its window file '{source}' is not there, seen from {Path.cwd()}")
    words = source.read_text(encoding="utf-8", errors="replace").split()[:4]
    if len(words) < 4 or not words[3].isdecimal():
        raise UnknownShapeError(f"its window file '{source}' does not begin with '# 0', an image and its channels")
    batch = int(param.get("batch_size")) if param.has("batch_size") else 1
    return Found([(batch, int(words[3]), crop, crop), (batch,)])


def _hdf5_data(layer: Layer, bottoms: list[Shape]) -> Found:
    """From the data sets, named as the tops, of the first file that its list names."""
    param = Options.of(layer.message, "hdf5_data_param")
    listing = Path(param.get("source"))
    if not listing.is_file():
        raise UnknownShapeError(f"its list of files '{listing}' is not there, seen from {Path.cwd()}")
    first = next(iter(listing.read_text(encoding="utf-8", errors="replace").split()), "")
    if not Path(first).is_file():
        raise UnknownShapeError(f"'{first}', which '{listing}' names first, is not there, seen from {Path.cwd()}")
    try:
        import h5py
    except ImportError:
        raise UnknownShapeError("h5py is not installed; pip install h5py") from None
    try:
        with h5py.File(first, "r") as stream:
            # A group has no shape, and a single number no axis of rows.
            shapes = [getattr(stream[top], "shape", None) if top in stream else None for top in layer.tops]
    except Exception as error:  # h5py raises what it comes across in a damaged file
        raise UnknownShapeError(f"'{first}' cannot be read as HDF5: {error}") from None
    lacking = [top for top, shape in zip(layer.tops, shapes) if not shape]
    if lacking:
        raise UnknownShapeError(f"'{first}' has no data set '{lacking[0]}' with rows")
    batch = int(param.get("batch_size")) if param.has("batch_size") else 1
    return Found([(batch, *map(int, shape[1:])) for shape in shapes if shape])


def _hdf5_output(layer: Layer, bottoms: list[Shape]) -> Found:
    need_bottoms(layer, bottoms, 2, axes=1)
    for bottom in bottoms:
        if not 1 <= len(bottom) <= 4 or bottom[0] != bottoms[0][0]:
            raise CaffeSplitError(
                f"{layer.where}: bottoms of shapes {', '.join(map(str, bottoms))}; expected as many records of all, "
                "and one to four axes."
            )
    return Found([])


def _crop(layer: Layer) -> int:
    return int(Options.of(layer.message, "transform_param").get("crop_size"))


def _images(layer: Layer, batch: int, image: tuple[int, int, int]) -> Found:
    channels, height, width = image
    crop = _crop(layer)
    if crop:
        height = width = crop
    shapes: list[Shape] = [(batch, channels, height, width), (batch,)]
    return Found(shapes[: len(layer.tops)])


# -- words


def _source_and_batch(layer: Layer) -> list[str]:
    """`Data: cifar10_train_lmdb`, `batch 100`, `gives data, label`."""
    name = next((key for key in _SOURCES if layer.message.has(key)), None)
    param = Options.of(layer.message, name) if name else None
    source = PurePosixPath(param.get("source")).name if param and name != "memory_data_param" else ""
    batch = param.get("batch_size") if param and param.has("batch_size") else 0
    lines = [f"{layer.type}: {source}" if source else layer.type]
    return lines + ([f"batch {batch}"] if batch else []) + tops(layer)


_SOURCES = ("data_param", "image_data_param", "hdf5_data_param", "memory_data_param", "window_data_param")


def _type_and_shape(layer: Layer) -> list[str]:
    """`Input 1x3x32x32`."""
    param = Options.of(layer.message, "input_param" if layer.type == "Input" else "dummy_data_param")
    shapes = [size(shape_of(shape)) for shape in param.subs("shape")]
    return [" ".join([layer.type, *shapes[:1]]), *tops(layer)]


def _alone(why: str) -> BatchRule:
    """The rule for processes that share a batch, of a layer that one process has to run."""

    def rule(_layer: Layer, given: Sequence[BatchKind], _shapes: Shapes) -> BatchKind:
        raise MixedRecordsError(why)

    return rule


_TRANSFORM = "scale mirror crop_size mean_file mean_value"


def _in_transform(message: str, *names: str) -> dict[str, str]:
    """Fields of before transform_param was there, which Caffe upgrades in old layers only."""
    return {f"{message}.{name}": "in layers of this form Caffe reads transform_param only" for name in names}


_NOT_READ = {
    **dict.fromkeys(("rand_skip", "force_encoded_color"), "Caffe's Data layer of today does not read it"),
    **_in_transform("data_param", "scale", "mean_file", "crop_size", "mirror"),
}
_NOT_OF_WINDOWS = {
    "cache_images": "it changes how often files are read",
    **dict.fromkeys(("force_color", "force_gray"), "windows are read in colour"),
    **_in_transform("window_data_param", "mean_file", "crop_size", "mirror"),
}

RECORDS = (
    LayerType(
        "Input",
        shapes=_given,
        options={"input_param": "shape"},
        batch=batch_rules.source,
        words=_type_and_shape,
        engine=Engine("inputs", (0, 0), (1, ANY)),
    ),
    LayerType(
        "DummyData",
        shapes=_given,
        options={"dummy_data_param": "data_filler num channels height width shape"},
        batch=batch_rules.source,
        words=_type_and_shape,
        engine=Engine("inputs", (0, 0), (1, ANY)),
    ),
    LayerType(
        "Data",
        shapes=_data,
        options={
            "data_param": "source batch_size backend prefetch",
            "transform_param": f"{_TRANSFORM} force_color force_gray",
        },
        batch=batch_rules.source,
        words=_source_and_batch,
        engine=Engine("data", (0, 0), (1, 2), _NOT_READ, check_data, data_there),
    ),
    LayerType(
        "ImageData",
        shapes=_image_data,
        options={
            "image_data_param": "source batch_size rand_skip shuffle new_height new_width is_color root_folder",
            "transform_param": _TRANSFORM,
        },
        batch=batch_rules.source,
        words=_source_and_batch,
        engine=Engine(
            "data",
            (0, 0),
            (2, 2),
            {
                **dict.fromkeys(("force_color", "force_gray"), "an ImageData layer has is_color"),
                **_in_transform("image_data_param", "scale", "mean_file", "crop_size", "mirror"),
            },
            check_image_data,
            images_there,
        ),
    ),
    LayerType(
        "HDF5Data",
        shapes=_hdf5_data,
        options={"hdf5_data_param": "source batch_size shuffle"},
        batch=batch_rules.source,
        words=_source_and_batch,
        engine=Engine("data", (0, 0), (1, ANY), check=check_hdf5_data, files=hdf5_there),
    ),
    LayerType(
        "MemoryData",
        shapes=_memory_data,
        options={"memory_data_param": "batch_size channels height width"},
        batch=batch_rules.source,
        words=_source_and_batch,
        engine=Engine(
            "inputs", (0, 0), (2, 2), {"transform_param": "Caffe does not transform arrays that it is given"}
        ),
    ),
    LayerType(
        "WindowData",
        shapes=_window_data,
        options={
            "window_data_param": "source scale batch_size fg_threshold bg_threshold fg_fraction context_pad crop_mode "
            "root_folder",
            "transform_param": "mirror crop_size mean_file mean_value",
        },
        batch=batch_rules.source,
        words=_source_and_batch,
        engine=Engine("data", (0, 0), (2, 2), _NOT_OF_WINDOWS, check_window_data, windows_there),
    ),
    LayerType(
        "HDF5Output",
        shapes=_hdf5_output,
        options={"hdf5_output_param": "file_name"},
        batch=_alone("each process would write a file of its own"),
        engine=Engine("output", (2, 2), (0, 0), check=check_hdf5_output, files=hdf5_output_free, rule_refuses=True),
    ),
    LayerType(
        "Parameter",
        shapes=_parameter,
        options={"parameter_param": "shape"},
        batch=batch_rules.constant,
        engine=Engine("dense", (0, 0)),
    ),
    LayerType(
        "Python",
        shapes="only the layer's own code knows them",
        options={"python_param": "module layer param_str"},
        batch=_alone("what its class computes from a part of the batch is not known"),
        remembers=lambda layer: bool(layer.bottoms),
        engine=Engine(
            "python", (0, ANY), (0, ANY), ignored={"share_in_parallel": "processes do not share the layers of Caffe"}
        ),
    ),
)
