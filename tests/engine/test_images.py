"""Images from a Data layer: transformed as in Caffe; random crops and mirrors are all equally likely."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from caffe_split.data.store import write_store
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.weights import blob as blobs
from tests.engine.source_files import here, in_caffe, near

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")

from caffe_split.engine.model.net import Net
from caffe_split.formats.weights.binaryproto import read_blob

TRANSFORMS = {
    "plain": "",
    "scale": "scale: 0.00390625",
    "mean": "mean_value: 100 scale: 0.5",
    "means": "mean_value: 100 mean_value: 50.5 mean_value: 3",
    "crop": "crop_size: 4",
    "file": 'mean_file: "mean.binaryproto" scale: 0.1',
    "file_crop": 'mean_file: "mean.binaryproto" crop_size: 5 scale: 0.1',
}
COUNT = 10


@pytest.fixture
def images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> np.ndarray:
    """Ten images of 3 x 7 x 8 in an LMDB "store", labels 0 to 9, and a mean image."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    values = rng.integers(0, 256, (COUNT, 3, 7, 8), dtype=np.uint8)
    write_store("store", ((image, index) for index, image in enumerate(values)))
    mean = rng.uniform(0, 255, (1, 3, 7, 8)).astype(np.float32)
    before, behind = blobs.head(mean)
    Path("mean.binaryproto").write_bytes(before + b"".join(blobs.little_endian(mean)) + behind)
    assert np.array_equal(read_blob("mean.binaryproto"), mean)
    return values


def data(transform: str, batch: int = 7) -> str:
    return (
        f'layer {{ name: "data" type: "Data" top: "data" top: "label" transform_param {{ {transform} }} '
        f'data_param {{ source: "store" batch_size: {batch} backend: LMDB }} }}'
    )


@pytest.mark.caffe
def test_transformed_images_match_caffe(images: np.ndarray) -> None:
    theirs = in_caffe({name: data(transform) for name, transform in TRANSFORMS.items()})
    for name, transform in TRANSFORMS.items():
        near(here(data(transform)), theirs[name])


def test_records_repeat_in_order(images: np.ndarray) -> None:
    net = Net(prototxt.parse(data(""), kind="net"), "TRAIN")
    labels = [int(label) for _ in range(4) for label in net.forward().blobs["label"]]
    assert labels == [index % COUNT for index in range(28)]


def test_random_crops_and_mirrors_are_equally_likely(images: np.ndarray) -> None:
    net = Net(prototxt.parse(data("crop_size: 6 mirror: true", COUNT), kind="net"), "TRAIN", seed=4)
    seen: Counter[tuple[int, int, bool]] = Counter()
    for _ in range(60):
        batch = net.forward().blobs["data"].numpy()
        for image, whole in zip(batch, images):
            found = [
                (top, left, mirrored)
                for top in range(2)
                for left in range(3)
                for mirrored in (False, True)
                if np.array_equal(image[:, :, ::-1] if mirrored else image, whole[:, top : top + 6, left : left + 6])
            ]
            assert len(found) == 1
            seen.update(found)
    # Each of the twelve as often as the others.
    assert len(seen) == 12 and min(seen.values()) > 30 and max(seen.values()) < 75


def test_a_file_that_is_no_blob_is_refused(tmp_path: Path) -> None:
    (tmp_path / "mean").write_bytes(b"no mean image")
    with pytest.raises(CaffeSplitError, match="mean"):
        read_blob(str(tmp_path / "mean"))
