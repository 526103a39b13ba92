"""Data layers of forks. The engine does not read their files: a program gives their arrays, as those of an Input.

So it is with any layer of an unknown type that reads no blob, with Caffe's own data layers where fields of forks say
what they read or how, and with NVCaffe's DetectNetTransformation, which makes the images and the grid of a DetectNet of
what two Data layers read.
"""

from __future__ import annotations

from collections.abc import Mapping
from types import MappingProxyType

from caffe_split.layertypes import batch_rules
from caffe_split.layertypes.foreign import may_be_a_slip, unread_fields, why_not_known
from caffe_split.layertypes.record import ANY, Engine, LayerType
from caffe_split.layertypes.shape_rules import Found, Shape, ShapeRule, UnknownShapeError
from caffe_split.layertypes.words import tops
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options


def _annotated(layer: Layer, bottoms: list[Shape]) -> Found:
    """SSD's: images of the size to which they are resized, and a row of eight for each object."""
    transform = layer.message.sub("transform_param")
    resize = transform.sub("resize_param") if transform is not None else None
    sides = [_whole(resize.get(name, 0)) if resize is not None else 0 for name in ("height", "width")]
    if not all(sides):
        raise UnknownShapeError("it gives no resize_param with height and width; the size is that of its images")
    shapes: list[Shape] = [(_number(layer, "data_param", "batch_size") or 1, 3, *sides), (1, 1, 1, 8)]
    return Found(shapes[: len(layer.tops)])


def _segmented(message: str) -> ShapeRule:
    """Images and a label per pixel; a third top holds the sizes of the images."""

    def rule(layer: Layer, bottoms: list[Shape]) -> Found:
        crop = int(Options.of(layer.message, "transform_param").get("crop_size"))
        sides = [crop or _number(layer, message, name) for name in ("new_height", "new_width")]
        if not all(sides):
            raise UnknownShapeError("it gives no crop_size; the size is that of its images")
        batch = _number(layer, message, "batch_size") or 1
        shapes: list[Shape] = [(batch, 3, *sides), (batch, 1, *sides), (batch, 1, 1, 2)]
        return Found(shapes[: len(layer.tops)])

    return rule


def _detect_net(layer: Layer, bottoms: list[Shape]) -> Found:
    """DetectNet's: images of the size of the grid, and 8 channels and one per class for each square of it."""
    width, height = (_number(layer, "detectnet_groundtruth_param", f"image_size_{axis}") for axis in "xy")
    stride = _number(layer, "detectnet_groundtruth_param", "stride")
    if not (width and height and stride):
        raise UnknownShapeError("its detectnet_groundtruth_param gives no image_size_x, image_size_y or stride")
    truth = layer.message.sub("detectnet_groundtruth_param")
    classes = {_whole(each.get("dst", 0)) for each in truth.subs("object_class")} if truth is not None else set()
    batch = bottoms[0][0] if bottoms and bottoms[0] else 1
    channels = 8 + max(classes, default=0) + 1
    shapes: list[Shape] = [(batch, 3, height, width), (batch, channels, height // stride, width // stride)]
    return Found(shapes[: len(layer.tops)])


def _number(layer: Layer, message: str, name: str) -> int:
    """A number in a message that may be a fork's; 0 where it is not written."""
    found = layer.message.sub(message)
    return _whole(found.get(name, 0)) if found is not None else 0


def _whole(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


# Caffe's own types that read records, and of which forks have other forms.
READERS = ("Data", "ImageData", "HDF5Data", "MemoryData", "WindowData")
_GIVEN = {"*": "its arrays are given in Python, so nothing is read"}
_OWN = "only the layer's own code knows them"
_SHAPES: dict[str, ShapeRule | str] = {
    "AnnotatedData": _annotated,  # SSD
    "ImageSegData": _segmented("image_data_param"),  # DeepLab
    "DenseImageData": _segmented("dense_image_data_param"),  # SegNet
    "VideoData": _OWN,  # temporal segment networks
    "CPMData": _OWN,  # pose machines, OpenPose
    "ImageLabelmapData": _OWN,  # HED
    "DataHeatmap": _OWN,
    "BoxData": _OWN,  # YOLO
}


def _given(
    name: str, shapes: ShapeRule | str, bottoms: int = 0, ignored: Mapping[str, str] = MappingProxyType(_GIVEN)
) -> LayerType:
    return LayerType(
        name,
        shapes=shapes,
        batch=batch_rules.source,
        words=lambda layer: [layer.type, *tops(layer)],
        engine=Engine("given", (bottoms, bottoms), (1, ANY), ignored, class_name="Given"),
    )


def unknown_source(name: str) -> LayerType:
    """The record of a type that is not known, for a layer without bottoms."""
    return _given(name, "the type is not one of Caffe's own")


def of_a_fork(layer: Layer, own: LayerType) -> LayerType:
    """The record of a data layer of Caffe's type `own`: another one where a field of a fork says what it reads."""
    field = _field_of_a_fork(layer, own)
    if field is None:
        return own
    count = own.engine.tops if own.engine is not None else (0, ANY)
    why = why_not_known(layer, own.options)
    if why is None and not count[0] <= len(layer.tops) <= count[1]:
        why = f"it has {len(layer.tops)} tops, as in a fork"
    reason = f"{field}, so its arrays are given in Python, and nothing is read"
    return _given(own.name, why or own.shapes, ignored={"*": reason})


def _field_of_a_fork(layer: Layer, own: LayerType) -> str | None:
    """A sentence on the field that only a fork knows; None where there is none, or where one may be a slip."""
    unread = unread_fields(layer, own.options)
    if not unread or any(may_be_a_slip(problem) for problem in unread):
        return None
    return f"{unread[0].message} (line {unread[0].line})"


RECORDS = (
    *(_given(name, shapes) for name, shapes in _SHAPES.items()),
    _given("DetectNetTransformation", _detect_net, bottoms=2),
)
NAMES = frozenset(record.name for record in RECORDS)
