"""Encoded images decoded by Pillow, and resized, to what Caffe gets from OpenCV: uint8, blue first."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageOps, UnidentifiedImageError

from caffe_split.errors import CaffeSplitError

# Markers of a JPEG: its frame, of the three kinds that there are nearly always; and segments that do not change a pixel
# (tables, a comment, what applications add).
_FRAMES = {0xC0, 0xC1, 0xC2}
_SKIPPED = {0xC4, 0xDB, 0xDD, 0xFE, *range(0xE0, 0xF0)}
_UNKNOWN = "of no kind that Pillow knows, or damaged at its start"
# EXIF's number for how an image is turned; 1 is upright.
_ORIENTATION = 0x0112


class Picture:
    """A decoded image of shape (channels, height, width): blue, green, red (and alpha), or gray.

    `image` is Pillow's, which holds the values of a pixel side by side. `np.asarray` gives the array, `cut` a part.
    """

    def __init__(self, image: Image.Image) -> None:
        self.image = image
        self._bands = {"L": "L", "RGB": "BGR", "RGBA": "BGRA"}[image.mode]
        self.shape = (len(self._bands), image.height, image.width)

    def cut(self, top: int, left: int, height: int, width: int) -> npt.NDArray[np.uint8]:
        """The part (channels, height, width) from the row `top` and the column `left` on, uint8."""
        part = self.image
        if 2 * height * width < part.height * part.width:
            # Of a smaller part fewer values have to be put in order; a larger one is cut out of the array at less cost.
            part, top, left = part.crop((left, top, left + width, top + height)), 0, 0
        planes = np.frombuffer(b"".join([part.tobytes("raw", band) for band in self._bands]), np.uint8)
        return planes.reshape(-1, part.height, part.width)[:, top : top + height, left : left + width]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("the values of an image stand in another order than an array's: they have to be copied")
        return self.cut(0, 0, *self.shape[1:]).astype(dtype or np.uint8, copy=False)


def decode_image(encoded: bytes, color: bool | None) -> Picture:
    """An image file's bytes, decoded.

    color: True for three channels, False for one, both turned upright as the file says; None for the channels of the
    file, not turned. Raises `CaffeSplitError` if it is not an image of 8 bits per value.
    """
    plain = _plain_jpeg(encoded) if color is None else None
    if plain is not None:
        return plain
    try:
        with Image.open(io.BytesIO(encoded)) as image:
            if color is False:
                # A JPEG's own brightness, as OpenCV takes it.
                image.draft("L", None)
            if image.mode[0] in "IF":
                raise CaffeSplitError(f"an image of mode {image.mode}; expected one of 8 bits a value")
            turned = image if color is None else _upright(image)
            mode = _native_mode(turned) if color is None else "RGB" if color else "L"
            turned.load()
            return Picture(turned if turned.mode == mode else turned.convert(mode))
    except UnidentifiedImageError as error:  # whose text has an object's address
        raise CaffeSplitError(f"an image that cannot be decoded: {_UNKNOWN}") from error
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise CaffeSplitError(f"an image that cannot be decoded: {error}") from error


def _plain_jpeg(encoded: bytes) -> Picture | None:
    """A JPEG of one or three channels; None for all else, and for what cannot be decoded.

    Its size is read here. To open a JPEG of 256x256 with Pillow, which lists all that the file says of itself, takes a
    tenth of the time to decode it.
    """
    found = _jpeg_size(encoded)
    if found is None:
        return None
    mode, size = found
    if size[0] * size[1] > (Image.MAX_IMAGE_PIXELS or 0):
        return None
    try:
        return Picture(Image.frombytes(mode, size, encoded, "jpeg", mode, ""))
    except (OSError, ValueError):
        return None  # Pillow's own way says what is wrong


def _jpeg_size(encoded: bytes) -> tuple[str, tuple[int, int]] | None:
    """(Pillow's mode, (width, height)) as a JPEG's frame says; None for what is not gray or coloured, of 8 bits."""
    if not encoded.startswith(b"\xff\xd8\xff"):
        return None
    at = 2
    while at + 10 <= len(encoded) and encoded[at] == 0xFF:
        marker = encoded[at + 1]
        if marker in _FRAMES:
            mode = {1: "L", 3: "RGB"}.get(encoded[at + 9])
            height, width = (int.from_bytes(encoded[at + k : at + k + 2], "big") for k in (5, 7))
            return (mode, (width, height)) if encoded[at + 4] == 8 and mode and height and width else None
        if marker not in _SKIPPED:
            return None
        at += 2 + int.from_bytes(encoded[at + 2 : at + 4], "big")
    return None


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
