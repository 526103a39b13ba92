"""CIFAR from small archives, made here in the published forms; anything else is refused."""

from __future__ import annotations

import gzip
import io
import json
import pickle
import re
import subprocess
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from caffe_split.data.store import read_store
from tests.support import CAFFE, caffe_split

RNG = np.random.default_rng(11)
EACH = 4


class Cifar:
    """A set of 5 x 4 training and 4 test images with labels that differ."""

    def __init__(self, classes: int) -> None:
        self.classes = classes
        batches = 5 if classes == 10 else 1
        self.names = [f"data_batch_{i}" for i in range(1, 6)] if classes == 10 else ["train"]
        self.names.append("test_batch" if classes == 10 else "test")
        self.images = RNG.integers(0, 256, (batches + 1, EACH, 3, 32, 32), dtype=np.uint8)
        self.labels = RNG.integers(0, classes, (batches + 1, EACH))

    def python(self) -> dict[str, bytes]:
        key = b"labels" if self.classes == 10 else b"fine_labels"
        return {
            name: pickle.dumps(
                {b"data": images.reshape(EACH, -1), key: labels.tolist(), b"batch_label": b"x"}, protocol=2
            )
            for name, images, labels in zip(self.names, self.images, self.labels)
        }

    def binary(self) -> dict[str, bytes]:
        files = {}
        for name, images, labels in zip(self.names, self.images, self.labels):
            columns = [labels[:, None].astype(np.uint8), images.reshape(EACH, -1)]
            if self.classes == 100:
                columns.insert(0, np.full((EACH, 1), 19, np.uint8))
            files[f"{name}.bin"] = np.hstack(columns).tobytes()
        return files

    def sheets(self) -> dict[str, bytes]:
        files = {}
        for name, images in zip(self.names, self.images):
            stream = io.BytesIO()
            Image.fromarray(images.transpose(0, 2, 3, 1).reshape(EACH, 1024, 3)).save(stream, "PNG")
            files[f"{name}.png"] = stream.getvalue()
        files["train_lables.json"] = json.dumps(self.labels[:-1].ravel().tolist()).encode()
        files["test_lables.json"] = json.dumps(self.labels[-1].tolist()).encode()
        return files


def pack(files: dict[str, bytes], path: Path) -> Path:
    # Not in the order of the batches: an archive need not be.
    with tarfile.open(path, "w:gz") as archive:
        for name in sorted(files, reverse=True):
            member = tarfile.TarInfo(f"cifar-batches/{name}")
            member.size = len(files[name])
            archive.addfile(member, io.BytesIO(files[name]))
    return path


def write(source: Path, classes: int, *options: object, status: int = 0) -> subprocess.CompletedProcess[str]:
    return caffe_split("data", f"cifar{classes}", "--from", source.name, *options, cwd=source.parent, status=status)


@pytest.mark.parametrize(
    ("classes", "form"), [(10, "python"), (10, "binary"), (10, "sheets"), (100, "python"), (100, "binary")]
)
@pytest.mark.parametrize("packed", [True, False])
def test_every_form_gives_the_set(tmp_path: Path, classes: int, form: str, packed: bool) -> None:
    made = Cifar(classes)
    files = getattr(made, form)()
    source = tmp_path / "source"
    if packed:
        pack(files, source)
    else:
        source.mkdir()
        for name, content in files.items():
            (source / name).write_bytes(content)
    result = write(source, classes, "--pad", 4)
    assert f"data/cifar{classes}_test_lmdb: {EACH} images" in result.stdout
    train = list(read_store(tmp_path / f"data/cifar{classes}_train_lmdb"))
    assert np.array_equal([label for _, label in train], made.labels[:-1].ravel())
    images = np.stack([image for image, _ in train])
    assert images.shape[1:] == (3, 40, 40)
    assert np.array_equal(images[:, :, 4:36, 4:36], made.images[:-1].reshape(-1, 3, 32, 32))
    assert images.sum() == made.images[:-1].sum()
    test = list(read_store(tmp_path / f"data/cifar{classes}_test_lmdb"))
    assert np.array_equal(np.stack([image for image, _ in test]), made.images[-1])
    assert [label for _, label in test] == made.labels[-1].tolist()


@pytest.mark.caffe
def test_caffe_subtracts_the_mean(tmp_path: Path) -> None:
    made = Cifar(10)
    write(pack(made.binary(), tmp_path / "source"), 10)
    (tmp_path / "net.prototxt").write_text(
        'layer { name: "data" type: "Data" top: "data" top: "label" data_param { source: "data/cifar10_test_lmdb" '
        f'batch_size: {EACH} backend: LMDB }} transform_param {{ mean_file: "data/cifar10_mean.binaryproto" }} }}'
    )
    code = (
        "import caffe, numpy; n = caffe.Net('net.prototxt', caffe.TEST); n.forward(); "
        "numpy.save('seen.npy', n.blobs['data'].data)"
    )
    subprocess.run([CAFFE.parent / "python", "-c", code], cwd=tmp_path, check=True, capture_output=True, timeout=60)
    mean = made.images[:-1].reshape(-1, 3, 32, 32).mean(axis=0, dtype=np.float64)
    np.testing.assert_allclose(np.load(tmp_path / "seen.npy"), made.images[-1] - mean, atol=1e-4)


def test_an_interrupted_run_goes_on(tmp_path: Path) -> None:
    source = pack(Cifar(10).binary(), tmp_path / "source")
    write(source, 10)
    before = (tmp_path / "data/cifar10_train_lmdb/data.mdb").stat().st_mtime_ns
    for path in (tmp_path / "data/cifar10_test_lmdb").iterdir():
        path.unlink()
    (tmp_path / "data/cifar10_test_lmdb").rmdir()
    assert f"cifar10_test_lmdb: {EACH} images" in write(source, 10).stdout
    assert (tmp_path / "data/cifar10_train_lmdb/data.mdb").stat().st_mtime_ns == before
    said = write(source, 10, "--pad", 2, status=1).stderr
    assert "cifar10_train_lmdb exists, with images of (3, 32, 32) and not (3, 36, 36)" in said


def test_what_another_source_gave_is_not_taken_for_the_sets(tmp_path: Path) -> None:
    """Neither a store nor a mean stays beside those of another source, and what is there is not written anew."""
    made = Cifar(100)
    source = pack(made.binary(), tmp_path / "source")
    write(source, 100)
    kept = {path: path.stat().st_mtime_ns for path in tmp_path.glob("data/**/*") if path.is_file()}
    other = pack(made.python(), tmp_path / "other")
    assert "cifar100_train_lmdb: 4 images" in write(other, 100).stdout  # another form of the same images

    files = made.python()
    for change, said in (
        (
            {"train": batch(made.images[0], (made.labels[0] + [0, 0, 0, 1]) % 100)},
            "train_lmdb exists, with another record 3 ",
        ),
        ({"train": batch(made.images[0] ^ [[[[0]]], [[[0]]], [[[1]]], [[[0]]]], made.labels[0])}, ".*record 2 "),
        (
            {"train": batch(made.images[0][:3], made.labels[0][:3])},
            r"train_lmdb exists, with more records \(4\) than other gives;",
        ),
        (
            {"test": batch(np.tile(made.images[1], (2, 1, 1, 1)), np.tile(made.labels[1], 2))},
            r"test_lmdb exists, with fewer records \(4\) than other",
        ),
    ):
        assert re.search(said, write(pack({**files, **change}, other), 100, status=1).stderr)
    for path in tmp_path.glob("data/*_lmdb"):
        path.rename(tmp_path / path.name)
    bright = batch(np.full((2, 3, 32, 32), 200, np.uint8), np.array([1, 2]))
    said = write(pack({**files, "train": bright}, other), 100, status=1).stderr
    assert "cifar100_mean.binaryproto exists, and is not the mean of the training images of other" in said
    assert not list(tmp_path.glob("data/*_lmdb"))
    for path in tmp_path.glob("*_lmdb"):
        path.rename(tmp_path / "data" / path.name)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept


def batch(images: np.ndarray, labels: np.ndarray) -> bytes:
    pixels = images.astype(np.uint8).reshape(len(images), -1)
    return pickle.dumps({b"data": pixels, b"fine_labels": labels.tolist()}, protocol=2)


class Evil:
    def __reduce__(self) -> tuple[object, tuple[str]]:
        import os

        return os.system, ("touch pwned",)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda files: files.pop("test_batch"), "it is not CIFAR-10: found .*, expected data_batch_1 ... test_batch"),
        (lambda files: files.clear(), "it is not CIFAR-10: found none of its files"),
        (
            lambda files: files.update(test_batch=pickle.dumps(Evil())),
            r"test_batch is not .*: it asks for posix.system",
        ),
        (lambda files: files.update(test_batch=b"\x80\x02nonsense"), "test_batch is not in the python form"),
        (lambda files: files.update(test_batch=pickle.dumps([1, 2])), "test_batch is not in the python form"),
        (
            lambda files: files.update(
                test_batch=pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [3, 10]}, protocol=2)
            ),
            "test_batch has labels 3 to 10, expected 0 to 9",
        ),
        (
            lambda files: files.update(
                test_batch=pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": [3]}, protocol=2)
            ),
            "test_batch has 2 images and 1 labels",
        ),
        (
            lambda files: files.update(
                test_batch=pickle.dumps({b"data": np.zeros((2, 3072), np.uint8), b"labels": ["a", "b"]}, protocol=2)
            ),
            "test_batch is not in the python form of CIFAR-10: 'str' object",
        ),
        (lambda files: files.update(test_batch=b"}K\x01a."), "test_batch is not in the python form"),  # AttributeError
    ],
)
def test_what_is_not_the_set_is_refused(tmp_path: Path, change: object, message: str) -> None:
    files = Cifar(10).python()
    change(files)  # type: ignore[operator]
    result = write(pack(files, tmp_path / "source"), 10, status=1)
    lines = [line for line in result.stderr.splitlines() if line.startswith("caffe-split:")]
    assert len(lines) == 1 and re.search(message, lines[0]), result.stderr
    assert not (tmp_path / "pwned").exists()
    assert not list(tmp_path.glob("data/*")), "both halves are looked at before one is written"


def test_damaged_archives_are_refused(tmp_path: Path) -> None:
    whole = pack(Cifar(10).binary(), tmp_path / "cifar-10-binary.tar.gz")
    assert "MD5" in write(whole, 10, status=1).stderr
    assert "expected c32a1d4ab5d03f1284b67883e8d87530" in write(whole, 10, status=1).stderr
    write(whole, 10, "--no-checksum")
    for content in (whole.read_bytes()[:-4000], b"<html>no such file</html>", gzip.compress(b"x" * 999), b""):
        (tmp_path / "source").write_bytes(content)
        said = write(tmp_path / "source", 10, "--out", "d", status=1).stderr.splitlines()[-1]
        assert "not a whole tar archive" in said and said.endswith("Was the download cut short? Fetch it again.")
    assert "no such file or folder" in write(tmp_path / "none", 10, status=1).stderr


def test_a_binary_cut_short_is_refused(tmp_path: Path) -> None:
    files = Cifar(100).binary()
    files["train.bin"] = files["train.bin"][:-1]
    assert (
        "train.bin is not in the binary form of CIFAR-100" in write(pack(files, tmp_path / "s"), 100, status=1).stderr
    )


def test_a_folder_of_other_things_beside_the_set(tmp_path: Path) -> None:
    folder = tmp_path / "s"
    (folder / "train").mkdir(parents=True)
    for name, content in Cifar(100).binary().items():
        (folder / name).write_bytes(content)
    (folder / "train/test.bin").write_bytes((folder / "test.bin").read_bytes())
    assert "cifar100_train_lmdb: 4 images" in write(folder, 100).stdout
    (folder / "train/test.bin").write_bytes(b"x")
    assert "s: test.bin and train/test.bin differ" in write(folder, 100, status=1).stderr


@pytest.mark.parametrize("form", ["gz", "xz"])
def test_archives_with_other_bytes_in_their_middle(tmp_path: Path, form: str) -> None:
    with tarfile.open(tmp_path / "s", f"w:{form}") as archive:  # type: ignore[call-overload]
        member = tarfile.TarInfo("train.bin")
        member.size = 100_000
        archive.addfile(member, io.BytesIO(RNG.bytes(member.size)))
    whole = (tmp_path / "s").read_bytes()
    for start in range(1000, 90_000, 9000):
        (tmp_path / "s").write_bytes(whole[:start] + b"\xff" * 300 + whole[start + 300 :])
        said = write(tmp_path / "s", 100, status=1).stderr
        assert "s: not a whole tar archive" in said or "it is not CIFAR-100" in said


def test_a_source_must_be_given(tmp_path: Path) -> None:
    assert "--from" in caffe_split("data", "cifar10", cwd=tmp_path, status=2).stderr
