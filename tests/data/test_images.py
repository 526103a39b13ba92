"""Encoded images: what Pillow makes of them by its own way, and parts of them."""

from __future__ import annotations

import io
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from PIL import Image

from caffe_split.data.images import decode_image
from caffe_split.errors import CaffeSplitError

RNG = np.random.default_rng(0)
JPEGS: dict[str, dict[str, Any]] = {
    "plain": {},
    "progressive": {"progressive": True},
    "whole colours": {"subsampling": 0},
    "restarts": {"restart_marker_blocks": 2},
    "comment": {"comment": b"\xff\xc0\0\x11\x08 no frame"},
    "profile": {"icc_profile": b"profile" * 20000},
    "turned": {"exif": b"Exif\0\0MM\0*\0\0\0\x08\0\x01\x01\x12\0\x03\0\0\0\x01\0\x06\0\0\0\0\0\0"},
}


def encoded(form: str, mode: str, height: int = 19, width: int = 34, **how: Any) -> bytes:
    stream = io.BytesIO()
    values = RNG.integers(0, 256, (height, width, len(Image.new(mode, (1, 1)).getbands())), dtype=np.uint8)
    Image.fromarray(values.squeeze(), mode).save(stream, form, **how)
    return stream.getvalue()


def by_pillow(data: bytes) -> np.ndarray:
    """The planes of an image that Pillow opens, blue first."""
    with Image.open(io.BytesIO(data)) as image:
        values = np.atleast_3d(np.asarray(image if image.mode in ("L", "RGB") else image.convert("RGB")))
    return values[:, :, ::-1].transpose(2, 0, 1)


def outcome(decode: Callable[[bytes], np.ndarray], data: bytes) -> tuple[tuple[int, ...], bytes] | str:
    """The shape and values of an image, or what is said of it; of an unknown kind Pillow itself says it otherwise."""
    try:
        values = decode(data)
    except (CaffeSplitError, OSError, ValueError, SyntaxError) as error:
        said = re.sub("^an image that cannot be decoded: ", "", str(error))
        return re.sub("^cannot identify image file <.*>", "of no kind that Pillow knows, or damaged at its start", said)
    return values.shape, values.tobytes()


def as_here(data: bytes) -> np.ndarray:
    return np.asarray(decode_image(data, None))


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", JPEGS)
def test_a_jpeg_is_decoded_without_opening_it(name: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    data = encoded("JPEG", mode, **JPEGS[name])
    expected = by_pillow(data)
    monkeypatch.setattr(Image, "open", None)
    assert np.array_equal(np.asarray(decode_image(data, None)), expected)


@pytest.mark.parametrize(
    "data",
    [
        encoded("JPEG", "CMYK"),
        encoded("PNG", "RGB"),
        encoded("JPEG", "RGB") + b"more",
        b"\xff\xd8\xff\xd9" + encoded("JPEG", "RGB"),
    ],
    ids=["cmyk", "png", "more behind", "ends at once"],
)
def test_other_images_are_opened_as_before(data: bytes) -> None:
    assert outcome(as_here, data) == outcome(by_pillow, data)


def test_a_damaged_jpeg_gives_what_pillow_gives() -> None:
    whole = encoded("JPEG", "RGB", **JPEGS["restarts"])
    kinds = set()
    for _ in range(150):
        data = bytearray(whole[: int(RNG.integers(2, len(whole)))] if RNG.integers(2) else whole)
        for place in RNG.integers(2, len(data), int(RNG.integers(0, 4))):
            data[place] = RNG.integers(256)
        found = outcome(as_here, bytes(data))
        assert found == outcome(by_pillow, bytes(data))
        kinds.add(type(found))
    assert kinds == {str, tuple}


def test_a_jpeg_of_more_pixels_than_pillow_opens_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 100)
    with pytest.raises(CaffeSplitError, match="decompression bomb"):
        decode_image(encoded("JPEG", "RGB"), None)


@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("part", [(0, 0, 19, 34), (1, 2, 17, 31), (3, 0, 4, 5), (18, 33, 1, 1)])
def test_a_part_is_that_of_the_whole(mode: str, part: tuple[int, int, int, int]) -> None:
    picture = decode_image(encoded("PNG", mode), None)
    whole = np.asarray(picture)
    top, left, height, width = part
    assert picture.shape == whole.shape == (len(mode), 19, 34)
    assert np.array_equal(picture.cut(*part), whole[:, top : top + height, left : left + width])
    assert np.asarray(picture, np.float32).dtype == np.float32
