"""Data layers of forks. The engine does not read their files: a program gives their arrays, as those of an Input."""

from __future__ import annotations

from caffe_split.layertypes import batch_rules
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


def _number(layer: Layer, message: str, name: str) -> int:
    """A number in a message that may be a fork's; 0 where it is not written."""
    found = layer.message.sub(message)
    return _whole(found.get(name, 0)) if found is not None else 0


def _whole(value: object) -> int:
    return int(value) if isinstance(value, (int, float)) else 0


_GIVEN = {"*": "its arrays are given in Python, so nothing is read"}
_OWN = "its own code tells the shapes"
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

RECORDS = tuple(
    LayerType(
        name,
        shapes=shapes,
        batch=batch_rules.source,
        words=lambda layer: [layer.type, *tops(layer)],
        engine=Engine("given", (0, 0), (1, ANY), _GIVEN),
    )
    for name, shapes in _SHAPES.items()
)
NAMES = frozenset(_SHAPES)
