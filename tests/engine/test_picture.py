"""What the kernels cut out of a decoded image is what slices of its array are."""

from __future__ import annotations

import io
from typing import Any

import numpy as np
import pytest
from PIL import Image

pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.data.images import Picture, decode_image
from caffe_split.data.store import write_records
from caffe_split.engine import Net
from caffe_split.engine.data import images
from caffe_split.engine.kernels import picture
from caffe_split.engine.kernels.build import library
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt import caffe_pb2

says_where = hasattr(Image.Image, "__arrow_c_array__")
needs_kernel = pytest.mark.skipif(library() is None or not says_where, reason="no kernels, or Pillow before 11.2")


def image_of(mode: str, size: tuple[int, int]) -> Image.Image:
    bands = len(Image.new(mode, (1, 1)).getbands())
    values = np.random.default_rng(sum(size)).integers(0, 256, (size[1], size[0], bands), dtype=np.uint8)
    return Image.fromarray(values.squeeze(2) if bands == 1 else values, mode)


@needs_kernel
@pytest.mark.parametrize("mode", ["L", "RGB", "RGBA"])
@pytest.mark.parametrize("mirrored", [False, True])
def test_parts_are_those_of_the_array(mode: str, mirrored: bool) -> None:
    rng = np.random.default_rng(0)
    for size in ((1, 1), (7, 5), (64, 40), (227, 256)):
        whole = Picture(image_of(mode, size))
        values = np.asarray(whole)
        for _ in range(8):
            height, width = (int(rng.integers(1, most + 1)) for most in values.shape[1:])
            top, left = (int(rng.integers(0, most - one + 1)) for most, one in zip(values.shape[1:], (height, width)))
            out = np.zeros((len(values), height, width), np.uint8)
            assert picture.cut(whole, (top, left), mirrored, out)
            part = values[:, top : top + height, left : left + width]
            assert np.array_equal(out, part[:, :, ::-1] if mirrored else part)


@needs_kernel
def test_one_that_lies_in_pieces_is_left_to_pillow() -> None:
    large = Picture(Image.new("RGB", (2100, 2100)))
    assert not picture.cut(large, (0, 0), False, np.empty((3, 4, 4), np.uint8))


@needs_kernel
def test_rows_with_gaps_are_left_to_pillow() -> None:
    Image.core.set_alignment(64)
    try:
        padded = Picture(image_of("RGB", (7, 5)))
        assert not picture.cut(padded, (0, 0), False, np.empty((3, 4, 4), np.uint8))
    finally:
        Image.core.set_alignment(1)


def test_without_kernels_it_is_left_to_pillow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(picture, "library", lambda: None)
    assert not picture.cut(Picture(image_of("RGB", (8, 8))), (0, 0), False, np.empty((3, 4, 4), np.uint8))


@pytest.mark.parametrize("mode", ["L", "RGB"])
def test_a_data_layer_gives_the_same_batches_with_them_and_without(
    mode: str, tmp_path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def records():
        for index in range(6):
            stream = io.BytesIO()
            image_of(mode, (20 + index, 31)).save(stream, "PNG" if index % 2 else "JPEG")
            datum = caffe_pb2.Datum(data=stream.getvalue(), encoded=True, label=index)
            yield datum.SerializeToString()

    write_records(tmp_path / "store", records())
    text = f"""layer {{ name: "data" type: "Data" top: "data" top: "label" include {{ phase: TRAIN }}
      transform_param {{ crop_size: 16 mirror: true }}
      data_param {{ source: "{tmp_path / "store"}" batch_size: 6 backend: LMDB }} }}"""
    # Decoded images of a store as small as this would else stay in memory as arrays.
    monkeypatch.setattr(images, "_STAYS", 0)
    batches, cuts = [], []
    whole = picture.cut
    for kernels in (True, False):

        def cut(*given: Any, kernels: bool = kernels) -> bool:
            cuts.append(kernels and whole(*given))
            return cuts[-1]

        monkeypatch.setattr(picture, "cut", cut)
        net = Net(prototxt.parse(text, kind="net"), "TRAIN", seed=3)
        batches.append([net.forward().blobs["data"].numpy() for _ in range(3)])
    half = len(cuts) // 2
    assert half >= 18 and not any(cuts[-18:])
    assert all(cuts[:18]) == (library() is not None and says_where)
    for one, other in zip(*batches):
        assert one.std() > 0
        assert np.array_equal(one, other)


def test_a_decoded_jpeg_knows_its_image() -> None:
    stream = io.BytesIO()
    image_of("RGB", (9, 4)).save(stream, "JPEG")
    found = decode_image(stream.getvalue(), None)
    assert found.image.size == (9, 4)
    assert found.shape == (3, 4, 9)
