"""Encoded images decoded by Pillow to what Caffe gets from OpenCV: uint8, blue first."""

from __future__ import annotations

import io

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps

from caffe_split.errors import CaffeSplitError


def decode_image(encoded: bytes, color: bool | None) -> npt.NDArray[np.uint8]:
    """An image file's bytes as (channels, height, width): blue, green, red (and alpha), or gray.

    color: True for three channels, False for one, both turned upright as the file says; None for the channels of the
    file, not turned. Raises `CaffeSplitError` if it is not an image of 8 bits per value.
    """
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if color is False:
                # A JPEG's own brightness, as OpenCV takes it.
                image.draft("L", None)
            if image.mode[0] in "IF":
                raise CaffeSplitError(f"an image of mode {image.mode}; expected one of 8 bits a value")
            turned = image if color is None else ImageOps.exif_transpose(image)
            mode = _native_mode(turned) if color is None else "RGB" if color else "L"
            values = np.array(turned.convert(mode))
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CaffeSplitError(f"an image that cannot be decoded: {error}") from error
    if values.ndim == 2:
        return np.ascontiguousarray(values[None])
    order = [2, 1, 0, 3][: values.shape[2]]
    return np.ascontiguousarray(values[:, :, order].transpose(2, 0, 1))


def _native_mode(image: Image.Image) -> str:
    if image.mode in ("1", "L"):
        return "L"
    return "RGBA" if image.mode in ("RGBA", "LA", "PA") or "transparency" in image.info else "RGB"
