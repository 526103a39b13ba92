"""Images made ready for a deploy net, as Caffe's classification example does it."""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from caffe_split.data.images import decode_image, resize_image
from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.files import PathLike
from caffe_split.formats.arrays import read_array
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights.binaryproto import read_blob
from caffe_split.inference.given import GivenNet
from caffe_split.layertypes.inputs import fitting_transforms
from caffe_split.layertypes.shapes import infer_shapes
from caffe_split.net.options import Options

# OpenCV's weights of blue, green and red in a gray value, in 32768ths.
_GRAY = np.array([3735, 19235, 9798])
# Endings of files in a folder that count as images.
ENDINGS = (".bmp", ".gif", ".jpeg", ".jpg", ".png", ".ppm", ".tif", ".tiff", ".webp")


@dataclass(frozen=True)
class Preprocessing:
    """What is done to the pixels (0 to 255) of an image after it is resized.

    mean: what is subtracted: values, one or one per channel, with commas between them, or a file whose mean per channel
    counts (.binaryproto, or an array of .npy). None: the mean of the Input layer's transform_param, if it has one.
    scale: what they are then multiplied by; None: as transform_param says, else 1. rgb: whether the net takes red
    first, in place of Caffe's blue. transform_of: the net with the data layer, such as train_val.prototxt, whose
    transform_param counts in place of the Input layer's.
    """

    mean: str | None = None
    scale: float | None = None
    rgb: bool = False
    transform_of: PathLike | None = None


# A deploy net has no data layer, which would say what the training did.
_AS_THEY_ARE = (
    "nothing is subtracted and the scale is 1; if the net was trained with a mean or a scale, give --mean and --scale, "
    "or the net with the data layer by --transform-of"
)


class ImageInput:
    """The one input of a deploy net, and how images become its values.

    name: of the blob. batch: how many images the net's text gives it. shape: of one image, (channels, height, width).
    notes: what a user should know of the pixels.

    Raises `CaffeSplitError` for a net of several inputs, or whose input is no image, and for means that do not fit.
    """

    def __init__(self, net: GivenNet, preprocessing: Preprocessing) -> None:
        layers = [layer for layer in net.layers if layer.type == "Input"]
        tops = [top for layer in layers for top in layer.tops]
        if len(tops) != 1:
            listed = ", ".join(tops) or "none"
            raise CaffeSplitError(
                f"{net.path}: images are for a deploy net with one input (an Input layer); its inputs: {listed}."
            )
        self.name = tops[0]
        shape = infer_shapes(layers).blobs.get(self.name, ())
        if len(shape) != 4 or shape[1] not in (1, 3):
            raise CaffeSplitError(
                f"{net.path}: input '{self.name}' has shape {shape}; expected (N, 1 or 3 channels, height, width)."
            )
        self.batch, self.shape = shape[0], (shape[1], shape[2], shape[3])
        layer, file = layers[0], str(net.path)
        if preprocessing.transform_of is not None:
            other = read_net(preprocessing.transform_of, upgrade=True)
            instead = ", or say --mean and --scale"
            layer = fitting_transforms(other, net.state, file, tops, instead)[self.name]
            file = other.filename
        written = Options.of(layer.message, "transform_param")
        self.rgb = preprocessing.rgb
        self.scale = float(written.get("scale") if preprocessing.scale is None else preprocessing.scale)
        self.mean = _mean(preprocessing.mean, written, f"{file}: {layer.where}", shape[1])
        asked = preprocessing.mean is not None or preprocessing.scale is not None
        self.notes = () if asked or layer.message.has("transform_param") else (_AS_THEY_ARE,)

    def read(self, path: PathLike) -> np.ndarray:
        """The values of an image, float32 of `shape`. Raises `CaffeSplitError` for a file that is no image."""
        try:
            image = np.asarray(decode_image(Path(path).read_bytes(), None))
        except OSError as error:
            raise CaffeSplitError(f"{path}: no image can be read: {error.strerror}.") from None
        except CaffeSplitError as error:
            raise CaffeSplitError(f"{path}: {error}") from None
        channels, height, width = self.shape
        values = resize_image(_in_channels(image, channels), (height, width))
        ordered = values[::-1] if self.rgb else values
        return np.asarray((ordered.astype(np.float32) - self.mean) * np.float32(self.scale))

    def whole(self, images: list[np.ndarray]) -> np.ndarray:
        """A batch of the net's own size; the last image fills it up."""
        return np.stack([*images, *[images[-1]] * (self.batch - len(images))])


def _in_channels(image: np.ndarray, channels: int) -> np.ndarray:
    """An image of 1, 3 or 4 channels (gray; blue, green, red; alpha) as one of 1 or 3."""
    if len(image) == channels:
        return image
    if channels == 3:
        return image[:3] if len(image) > 3 else np.repeat(image, 3, axis=0)
    mixed = np.tensordot(_GRAY, image[:3].astype(np.int64), 1)
    return ((mixed + (1 << 14)) >> 15).astype(np.uint8)[None]


def _mean(given: str | None, written: Options, source: str, channels: int) -> np.ndarray:
    """What is subtracted, (channels, 1, 1); `source` is the layer of the options `written`, for messages."""
    if given is None:
        values = [float(value) for value in written.all("mean_value")]
        if written.has("mean_file"):
            source, values = str(written.get("mean_file")), _file_mean(Path(str(written.get("mean_file"))))
    else:
        source, values = f"--mean {given}", _values(given) or _file_mean(Path(given))
    values = values or [0.0]
    if len(values) not in (1, channels):
        raise CaffeSplitError(f"{source}: a mean of {len(values)} channels, and the net's input has {channels}.")
    return np.array(values * (channels // len(values)), np.float32).reshape(channels, 1, 1)


def _values(text: str) -> list[float]:
    """`104,117,123` as numbers; none where it is no list of finite numbers."""
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        return []
    return found if all(map(math.isfinite, found)) else []


def _file_mean(path: Path) -> list[float]:
    """The mean per channel of a mean file; the last three axes are channels, height and width."""
    if not path.is_file():
        raise CaffeSplitError(f"{path}: no such mean file; expected a file, or values such as 104,117,123.")
    if path.suffix == ".npy":
        blob = read_array(path)
    else:
        blob = read_blob(str(path))
    image = blob.reshape(blob.shape[-3:]) if blob.ndim > 3 and blob.size == math.prod(blob.shape[-3:]) else blob
    if image.ndim not in (1, 3):
        raise CaffeSplitError(
            f"{path}: a mean of shape {blob.shape}; expected (channels, height, width) or (channels,)."
        )
    return [float(channel.mean(dtype=np.float64)) for channel in image]


def find_images(paths: list[Path]) -> list[Path]:
    """The files among `paths`, and the images in the folders, sorted by name, and those within them.

    Raises `CaffeSplitError` for what is not there, and for a folder without an image.
    """
    found: list[Path] = []
    for path in paths:
        expect_path(path, "an image or a folder of images")
        if path.is_dir():
            inside = sorted(each for each in path.rglob("*") if each.suffix.lower() in ENDINGS and each.is_file())
            if not inside:
                raise CaffeSplitError(
                    f"{path}: no image in this folder; expected files that end in {', '.join(ENDINGS)}."
                )
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise CaffeSplitError(f"{path}: no such image or folder.")
    return found
