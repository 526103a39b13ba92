"""WindowData against the steps of Caffe's layer, written again here with OpenCV's resizing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.engine.source_files import encoded, here, layer, picture

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
cv2 = pytest.importorskip("cv2", reason="OpenCV is not installed: pip install opencv-python-headless")

from caffe_split.engine.data.windows import WindowReader
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.binaryproto import encode_mean

pytestmark = pytest.mark.usefixtures("folder")
CROP = 12
SIZES = [(20, 31), (27, 18)]


def rounded(value: float) -> int:
    return int(np.trunc(value + np.copysign(0.5, value)))


def expected(
    image: np.ndarray, box: tuple[int, ...], pad: int, square: bool, flip: bool
) -> tuple[np.ndarray, np.ndarray]:
    """(values, where there are any) of a window of an image (height, width, 3), step by step as the layer does it."""
    x1, y1, x2, y2 = box
    wide = high = CROP
    left = top = 0
    rows, columns = image.shape[:2]
    if pad or square:
        scale = CROP / (CROP - 2 * pad)
        half_h, half_w = (y2 - y1 + 1) / 2, (x2 - x1 + 1) / 2
        middle_x, middle_y = x1 + half_w, y1 + half_h
        if square:
            half_h = half_w = max(half_h, half_w)
        x1, x2 = rounded(middle_x - half_w * scale), rounded(middle_x + half_w * scale)
        y1, y2 = rounded(middle_y - half_h * scale), rounded(middle_y + half_h * scale)
        unclipped_h, unclipped_w = y2 - y1 + 1, x2 - x1 + 1
        off = [max(0, -x1), max(0, -y1), max(0, x2 - columns + 1), max(0, y2 - rows + 1)]
        x1, y1, x2, y2 = x1 + off[0], y1 + off[1], x2 - off[2], y2 - off[3]
        scale_x, scale_y = CROP / unclipped_w, CROP / unclipped_h
        wide, high = rounded((x2 - x1 + 1) * scale_x), rounded((y2 - y1 + 1) * scale_y)
        left, top = rounded((off[2] if flip else off[0]) * scale_x), rounded(off[1] * scale_y)
        wide, high = min(wide, CROP - left), min(high, CROP - top)
    part = cv2.resize(image[y1 : y2 + 1, x1 : x2 + 1], (wide, high), interpolation=cv2.INTER_LINEAR)
    part = part[:, ::-1] if flip else part
    values, there = np.zeros((CROP, CROP, 3)), np.zeros((CROP, CROP), bool)
    values[top : top + high, left : left + wide] = part
    there[top : top + high, left : left + wide] = True
    return values.transpose(2, 0, 1), there


def write(box: tuple[int, ...], other: tuple[int, ...] = (2, 1, 9, 15)) -> list[np.ndarray]:
    """Two images, BGR, and a file with an object in the first and background in the second."""
    images = [picture(index, size)[:, :, ::-1].copy() for index, size in enumerate(SIZES)]
    text = ""
    for index, (image, windows) in enumerate(zip(images, ([(7, 0.5, *box), (3, 0.3, 0, 0, 3, 3)], [(5, 0.1, *other)]))):
        Path(f"{index}.png").write_bytes(encoded(image[:, :, ::-1], "PNG"))
        text += f"# {index}\n{index}.png\n3\n{image.shape[0]}\n{image.shape[1]}\n{len(windows)}\n"
        text += "".join(" ".join(map(str, window)) + "\n" for window in windows)
    Path("windows.txt").write_text(text)
    return images


def net(more: str = "", transform: str = "") -> str:
    param = f'source: "windows.txt" batch_size: 5 bg_threshold: 0.2 fg_fraction: 0.5 {more}'
    return layer("WindowData", f"transform_param {{ crop_size: {CROP} {transform} }} window_data_param {{ {param} }}")


@pytest.mark.parametrize("box", [(3, 4, 17, 11), (0, 0, 30, 19), (25, 2, 30, 18), (9, 9, 9, 9)])
@pytest.mark.parametrize(("pad", "square"), [(0, False), (2, False), (0, True), (3, True), (5, False)])
def test_windows_are_cut_as_caffe_cuts_them(box: tuple[int, ...], pad: int, square: bool) -> None:
    images = write(box)
    blobs = (
        here(net(f"context_pad: {pad} crop_mode: '{'square' if square else 'warp'}' scale: 0.5", "mirror: true"))
        .forward()
        .blobs
    )
    assert blobs["label"].tolist() == [0, 0, 0, 7, 7]  # Two of five are objects: 2.5 rounded down.
    flips = set()
    for index in range(5):
        wanted = [
            expected(images[index < 3], (2, 1, 9, 15) if index < 3 else box, pad, square, flip)
            for flip in (False, True)
        ]
        found = blobs["data"][index].numpy() / 0.5
        off = [np.abs(found - values).max() for values, _ in wanted]
        # One for the rounding of a resized value; windows of one pixel look alike mirrored.
        assert min(off) <= 1, (index, off)
        flips.add(int(np.argmin(off)))
        assert (found[:, ~wanted[int(np.argmin(off))][1]] == 0).all()
    assert box == (9, 9, 9, 9) or len(flips) == 2


def test_means_are_those_under_the_crop_and_leave_the_surroundings_0() -> None:
    write((0, 0, 8, 8))
    plain = here(net("context_pad: 4")).forward().blobs["data"].numpy()
    there = plain[4] != 0
    means = np.random.default_rng(2).normal(size=(1, 3, 15, 16)).astype(np.float32)
    Path("mean.binaryproto").write_bytes(encode_mean(means[0]))
    found = here(net("context_pad: 4", 'mean_file: "mean.binaryproto"')).forward().blobs["data"].numpy()
    assert np.allclose(found[4], np.where(there, plain[4] - means[0, :, 2:14, 2:14], 0), atol=1e-4)
    found = here(net("context_pad: 4", "mean_value: 10 mean_value: 20 mean_value: 30")).forward().blobs["data"].numpy()
    assert np.allclose(found[4], np.where(there, plain[4] - np.array([10, 20, 30])[:, None, None], 0), atol=1e-4)


def test_draws_follow_from_the_batch_and_reach_every_window() -> None:
    write((3, 4, 17, 11))
    text = (
        Path("windows.txt")
        .read_text()
        .replace("0.png\n3\n20\n31\n2\n", "0.png\n3\n20\n31\n4\n8 0.9 1 1 9 9\n9 0.6 5 5 8 8\n")
    )
    Path("windows.txt").write_text(text)
    first, second = here(net(), "TRAIN"), here(net(), "TRAIN")
    batches = [first.forward().blobs["label"].tolist() for _ in range(12)]
    assert {label for batch in batches for label in batch} == {0, 7, 8, 9}
    second.go_to(7)
    assert second.forward().blobs["label"].tolist() == batches[7]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ("# 1", "! 1", "windows.txt:9: '!'; expected # and the number"),
        ("1.png", "2.png", "windows.txt:10: no image '2.png'"),
        ("1.png\n3", "1.png\n1", "windows.txt:11: an image of 1 channels"),
        ("5 0.1 2", "5 0.1 x", "windows.txt:15: 'x'; expected x1"),
        ("9 15", "9", "windows.txt:15: 'the end of the file'; expected y2"),
        ("7 0.5", "0 0.5", "windows.txt:7: an object of class 0"),
        ("7 0.5", "7 0.4", "no window counts as objects"),
        ("5 0.1", "5 0.2", "no window counts as background"),
        ("# 1", "# 2", "image # 2 of 2; the images are numbered from 0"),
        ("2 1 9 15", "2 1 18 15", "1.png: the window (2, 1, 18, 15) does not lie in an image of 18x27"),
    ],
)
def test_files_that_do_not_fit_are_refused(old: str, new: str, said: str) -> None:
    write((3, 4, 17, 11))
    Path("windows.txt").write_text(Path("windows.txt").read_text().replace(old, new, 1))
    with pytest.raises(CaffeSplitError) as error:
        here(net()).forward()
    assert said in str(error.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (net().replace(f"crop_size: {CROP}", ""), "no crop_size, to which windows are warped"),
        (net("context_pad: 6"), "context_pad: 6 on both sides leaves nothing of a crop_size of 12"),
        (net().replace("fg_fraction: 0.5", "fg_fraction: 1.5"), "fg_fraction: 1.5; expected a share"),
        (net("", "scale: 0.1"), "transform_param.scale, which Caffe's WindowData does not read"),
        (net().replace("windows.txt", "none.txt"), "no file 'none.txt' seen from"),
        (net("", "mean_value: 1 mean_value: 2"), "2 mean values; expected one, or one for each of 3"),
    ],
)
def test_settings_that_do_not_fit_are_refused(text: str, said: str) -> None:
    write((3, 4, 17, 11))
    with pytest.raises(CaffeSplitError) as error:
        here(text)
    assert said in str(error.value)


def test_a_share_is_that_of_a_float() -> None:
    write((3, 4, 17, 11))
    from caffe_split.engine.data.windows import Cut

    reader = WindowReader("windows.txt", "", (0.5, 0.2), batch=10, share=0.7, cut=Cut(CROP))
    assert reader.read(10)[1].tolist() == [0] * 3 + [7] * 7
