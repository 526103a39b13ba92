"""The mean and the scale of a data layer, inside the graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.exporting.opened import Opened
from caffe_split.exporting.options import ExportOptions
from caffe_split.exporting.site import Builder, Value
from caffe_split.formats.onnx.graph import Node
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights.binaryproto import read_blob
from caffe_split.layertypes.inputs import fitting_transforms
from caffe_split.layertypes.shape_rules import Shape
from caffe_split.net.layers import Layer
from caffe_split.net.options import Options

_AXES = 4  # of images
_MOST_VALUES = 4  # of a mean that is shown in numbers


@dataclass(frozen=True)
class Transform:
    """What Caffe does with an image: minus a mean that broadcasts along (N, C, H, W), then times a scale."""

    mean: np.ndarray | None
    scale: float

    def __call__(self, images: np.ndarray) -> np.ndarray:
        """The transformed images, (N, C, H, W)."""
        out = images if self.mean is None else images - self.mean
        return np.asarray(out * np.float32(self.scale), np.float32)

    def __str__(self) -> str:
        scale = f"the scale {self.scale:g}"
        if self.mean is None:
            return scale
        values = (
            " ".join(f"{value:g}" for value in self.mean.ravel())
            if self.mean.size <= _MOST_VALUES
            else (f"an image of {'x'.join(map(str, self.mean.shape[1:]))}, {self.mean.mean():.4g} on average")
        )
        return f"the mean ({values}) and {scale}"

    def add(self, to: Builder, value: Value) -> str:
        """The operators behind an input; returns the name of the transformed value."""
        name = value.name
        steps = [("Sub", "mean", self.mean)] if self.mean is not None else []
        if self.scale != 1:
            steps.append(("Mul", "scale", np.array(self.scale, np.float32)))
        for op, what, array in steps:
            constant, made = to.unique(f"{value.name}.{what}"), to.unique(f"{value.name}/{what}")
            to.constants[constant] = array
            to.add(Node(op, [name, constant], [made], to.unique(f"{value.name}/{op}", to.node_names)))
            name = made
        return name


def find_transforms(opened: Opened, inputs: Mapping[str, Shape], options: ExportOptions) -> dict[str, Transform]:
    """What inputs go through, by their names: what `options` ask for of the net's data layers or of another net's.

    Those of another net are chosen by `fitting_transforms`. Raises `CaffeSplitError` where no data layer has a
    transform, or none fits.
    """
    if options.transform_of is None:
        if not options.with_transform:
            return {}
        found = {top: layer for top, layer in opened.transforms.items() if top in inputs}
        if not found:
            raise CaffeSplitError(
                f"{opened.document.filename}: --with-transform: no data layer of it has a transform_param. Give the "
                "net with the data layer, such as train_val.prototxt; or keep this one, and name that one by "
                "--transform-of."
            )
        document = opened.document
    else:
        document = read_net(options.transform_of, upgrade=True, caffe_proto=options.caffe_proto)
        images = [top for top, shape in inputs.items() if len(shape) == _AXES]
        found = fitting_transforms(document, options.state, opened.document.filename, images)
    return {top: _transform(layer, inputs[top], document.filename) for top, layer in found.items()}


def _transform(layer: Layer, shape: tuple[int, ...], file: str) -> Transform:
    """The transform of a data layer, of the net in `file`, for images of `shape` (N, C, H, W).

    A mean image larger than them is cut in its middle, as Caffe's TEST phase cuts images. Raises `CaffeSplitError` for
    a mean of other channels or sizes, and a file that cannot be read.
    """
    options = Options.of(layer.message, "transform_param")
    values = [float(value) for value in options.all("mean_value")]
    mean = None
    if options.get("mean_file"):
        found = read_blob(str(options.get("mean_file")))
        mean = found.reshape(found.shape[-3:])
        offsets = [(have - want) // 2 for have, want in zip(mean.shape[1:], shape[2:])]
        if mean.shape[0] != shape[1] or min(offsets) < 0:
            raise CaffeSplitError(
                f"{file}: {layer.where}: its mean_file holds {mean.shape}, which does not fit images of {shape[1:]}."
            )
        top, left = offsets
        mean = np.ascontiguousarray(mean[None, :, top : top + shape[2], left : left + shape[3]], np.float32)
    elif values:
        if len(values) not in (1, shape[1]):
            raise CaffeSplitError(f"{file}: {layer.where}: {len(values)} values of mean_value for {shape[1]} channels.")
        mean = np.array(values, np.float32).reshape(1, -1, 1, 1)
    return Transform(mean, float(options.get("scale")))
