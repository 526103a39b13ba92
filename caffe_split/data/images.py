"""Encoded images decoded by Pillow, and resized, to what Caffe gets from OpenCV: uint8, blue first."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from caffe_split.errors import CaffeSplitError

# EXIF's number for how an image is turned; 1 is upright.
_ORIENTATION = 0x0112


def decode_image(encoded: bytes, color: bool | None) -> npt.NDArray[np.uint8]:
    """An image file's bytes as (channels, height, width): blue, green, red (and alpha), or gray.

    color: True for three channels, False for one, both turned upright as the file says; None for the channels of the
    file, not turned. The array is a view of Pillow's, which has the values of a pixel side by side: the crop of it that
    is needed is copied later, once. Raises `CaffeSplitError` if it is not an image of 8 bits per value.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if color is False:
                # A JPEG's own brightness, as OpenCV takes it.
                image.draft("L", None)
            if image.mode[0] in "IF":
                raise CaffeSplitError(f"an image of mode {image.mode}; expected one of 8 bits a value")
            turned = image if color is None else _upright(image)
            mode = _native_mode(turned) if color is None else "RGB" if color else "L"
            values = np.asarray(turned if turned.mode == mode else turned.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CaffeSplitError(f"an image that cannot be decoded: {error}") from error
    if values.ndim == 2:
        return values[None]
    blue_first = values[:, :, ::-1] if values.shape[2] == 3 else values[:, :, [2, 1, 0, 3]]
    return blue_first.transpose(2, 0, 1)


def _upright(image: Image.Image) -> Image.Image:
    # Asked first: without a turn, Pillow would copy the image.
    image.load()
    return image if image.getexif().get(_ORIENTATION, 1) == 1 else ImageOps.exif_transpose(image)


def _native_mode(image: Image.Image) -> str:
    if image.mode in ("1", "L"):
        return "L"
    return "RGBA" if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info else "RGB"


# Weights of the two nearest pixels are whole 2048ths, as OpenCV has them.
_PARTS = 2048


def resize_image(image: npt.NDArray[np.uint8], size: tuple[int, int]) -> npt.NDArray[np.uint8]:
    """An image (channels, height, width) resized to `size`, (height, width), as OpenCV's resize does by default.

    Each pixel is interpolated linearly between its four nearest, without smoothing. Fewer than one value in a hundred
    differs from OpenCV's, by 1: it rounds some pixels of a row in another order.
    """
    _, old_height, old_width = image.shape
    height, width = size
    if (height, width) == (old_height, old_width):
        return image
    left, right, near, far = _neighbours(old_width, width)
    values = image.astype(np.int32)
    rows = (values[:, :, left] * near + values[:, :, right] * far) >> 4
    above, below, near, far = _neighbours(old_height, height)
    mixed = ((rows[:, above] * near[:, None]) >> 16) + ((rows[:, below] * far[:, None]) >> 16)
    return np.asarray((mixed + 2) >> 2, np.uint8)


_Ints = npt.NDArray[np.int32]


def _neighbours(old: int, new: int) -> tuple[_Ints, _Ints, _Ints, _Ints]:
    """Of each of `new` places: the two nearest of `old` ones, and their weights in 2048ths."""
    places = ((np.arange(new) + 0.5) * (1 / (new / old)) - 0.5).astype(np.float32)
    places = np.clip(places, 0, old - 1)
    low = np.minimum(places.astype(np.int32), max(0, old - 2))
    far = np.rint((places - low) * np.float32(_PARTS)).astype(np.int32)
    near = np.rint((1 - (places - low)) * np.float32(_PARTS)).astype(np.int32)
    return low, np.minimum(low + 1, old - 1).astype(np.int32), near, far
