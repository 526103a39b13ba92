"""The lines of docs/data.md that make an LMDB of a user's own images."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
from PIL import Image

from caffe_split.data.store import read_store
from caffe_split.formats.weights.binaryproto import read_blob
from tests.support import ROOT, inside

IMAGES, MNIST = re.findall(r"^```python\n(.*?)^```", (ROOT / "docs/data.md").read_text(encoding="utf-8"), re.M | re.S)


def test_listed_images_become_an_lmdb_and_a_mean(tmp_path: Path) -> None:
    """Each image is of one colour, so that its size does not matter; the names have a blank, as photos have."""
    colours = [(10 * index, 100, 255 - index) for index in range(6)]
    for index, colour in enumerate(colours):
        Image.new("RGB", (30 + index, 20), colour).save(tmp_path / f"photo {index}.png")
    (tmp_path / "train.txt").write_text("".join(f"photo {index}.png {index}\n" for index in range(6)))
    with inside(tmp_path):
        exec(compile(IMAGES, "docs/data.md", "exec"), {})
    found = {label: image for image, label in read_store(tmp_path / "train_lmdb")}
    assert sorted(found) == list(range(6)) and list(found) != sorted(found), "all of them, in another order"
    for label, image in found.items():
        assert image.shape == (3, 256, 256)
        assert (image == np.array(colours[label][::-1], np.uint8)[:, None, None]).all(), "blue first"
    mean = read_blob(str(tmp_path / "mean.binaryproto"))
    assert mean.shape == (1, 3, 256, 256)
    np.testing.assert_allclose(mean[0, :, 0, 0], np.mean(colours, axis=0)[::-1], rtol=1e-6)


def test_mnist_becomes_an_lmdb(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    images, labels = rng.integers(0, 256, (5, 28, 28), np.uint8), rng.integers(0, 10, 5, np.uint8)
    for name, magic, array in (("images-idx3", 2051, images), ("labels-idx1", 2049, labels)):
        head = np.array([magic, *array.shape], ">i4").tobytes()
        (tmp_path / f"train-{name}-ubyte.gz").write_bytes(gzip.compress(head + array.tobytes()))
    with inside(tmp_path):
        exec(compile(MNIST, "docs/data.md", "exec"), {})
    written = list(read_store(tmp_path / "mnist_train_lmdb"))
    assert [label for _, label in written] == labels.tolist()
    np.testing.assert_array_equal([image[0] for image, _ in written], images)
