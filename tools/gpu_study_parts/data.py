"""CIFAR-10 in a form small enough to carry: sheets of 1,024 images as lossless WebP, in parts, with their labels.

Every part has its own sheets and a copy of the labels and of the hashes of all images; any folders that together hold
all sheets are read. The images are those of the published set, in its order, to the last bit.
"""

from __future__ import annotations

import hashlib
import io
import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from caffe_split.errors import CaffeSplitError

SIDE, ACROSS, COUNTS = 32, 32, {"train": 50000, "test": 10000}
# Of red, green and blue over CIFAR-10's training images.
MEAN = (125.307, 122.950, 113.865)
PER_SHEET = ACROSS * ACROSS
FACTS = "cifar10.json"


def read_stores(folder: Path) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """half -> (uint8 (N, 32, 32, 3), uint8 labels) from the LMDBs that `caffe-split data cifar10` wrote, unpadded."""
    from caffe_split.data.store import read_store

    found = {}
    for half, count in COUNTS.items():
        images, labels = np.empty((count, SIDE, SIDE, 3), np.uint8), np.empty(count, np.uint8)
        number = 0
        for image, label in read_store(folder / f"cifar10_{half}_lmdb"):
            if number == count or image.shape != (3, SIDE, SIDE):
                raise CaffeSplitError(f"{folder}: cifar10_{half}_lmdb is not CIFAR-10's {count} images, unpadded.")
            images[number], labels[number] = image.transpose(1, 2, 0), label
            number += 1
        if number != count:
            raise CaffeSplitError(f"{folder}: cifar10_{half}_lmdb has {number} images, expected {count}.")
        found[half] = images, labels
    mean = found["train"][0].reshape(-1, 3).mean(0)
    if np.abs(mean - MEAN).max() > 0.01:
        seen, known = (", ".join(f"{value:.3f}" for value in values) for values in (mean, MEAN))
        raise CaffeSplitError(f"{folder}: another set: the training images' mean is {seen}, CIFAR-10's is {known}.")
    return found


def sheet(images: np.ndarray) -> bytes:
    """Up to 1,024 images as one lossless WebP, 32 images a row."""
    from PIL import Image

    whole = np.zeros((PER_SHEET, SIDE, SIDE, 3), np.uint8)
    whole[: len(images)] = images
    pixels = whole.reshape(ACROSS, ACROSS, SIDE, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(ACROSS * SIDE, -1, 3)
    # The last sheet is only as high as its images.
    pixels = pixels[: -(-len(images) // ACROSS) * SIDE]
    packed = io.BytesIO()
    Image.fromarray(np.ascontiguousarray(pixels)).save(packed, "WEBP", lossless=True, quality=100, method=4)
    return packed.getvalue()


def _images(packed: bytes, count: int) -> np.ndarray:
    from PIL import Image

    with Image.open(io.BytesIO(packed)) as picture:
        pixels = np.asarray(picture.convert("RGB"))
    return pixels.reshape(-1, SIDE, ACROSS, SIDE, 3).transpose(0, 2, 1, 3, 4).reshape(-1, SIDE, SIDE, 3)[:count]


def pack(source: Path, parts: Sequence[Path]) -> list[int]:
    """Write the LMDBs in `source` into the folders `parts`, about as much into each; their sizes in bytes."""
    halves = read_stores(source)
    facts = {
        half: {
            "count": len(images),
            "images": hashlib.sha256(images.tobytes()).hexdigest(),
            "labels": hashlib.sha256(labels.tobytes()).hexdigest(),
        }
        for half, (images, labels) in halves.items()
    }
    sheets = [(half, first) for half in COUNTS for first in range(0, COUNTS[half], PER_SHEET)]
    with ThreadPoolExecutor(2) as pool:
        packed = list(pool.map(lambda part: sheet(halves[part[0]][0][part[1] : part[1] + PER_SHEET]), sheets))
    per_part, sizes = -(-len(sheets) // len(parts)), []
    for number, part in enumerate(parts):
        part.mkdir(parents=True, exist_ok=True)
        for (half, first), data in list(zip(sheets, packed))[number * per_part : (number + 1) * per_part]:
            (part / f"{half}_{first:05d}.webp").write_bytes(data)
        for half, (_, labels) in halves.items():
            (part / f"{half}_labels.bin").write_bytes(labels.tobytes())
        (part / FACTS).write_text(json.dumps(facts, indent=1), encoding="utf-8")
        sizes.append(sum(path.stat().st_size for path in part.iterdir()))
    return sizes


def load(folders: Sequence[Path], threads: int = 8) -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """half -> (images, labels) out of packed folders. Raises `CaffeSplitError` for what is missing or not the set."""
    known = next((folder for folder in folders if (folder / FACTS).is_file()), None)
    if known is None:
        listed = ", ".join(map(str, folders)) or "none"
        raise CaffeSplitError(f"no {FACTS} in {listed}: are these parts that tools/gpu_study --pack wrote?")
    facts = json.loads((known / FACTS).read_text(encoding="utf-8"))
    places = {path.name: path for folder in folders for path in folder.glob("*.webp")}
    found = {}
    for half in COUNTS:
        count = facts[half]["count"]
        firsts = range(0, count, PER_SHEET)
        missing = [first for first in firsts if f"{half}_{first:05d}.webp" not in places]
        if missing:
            raise CaffeSplitError(
                f"{len(missing)} of {len(firsts)} sheets of the {half} images are in none of "
                f"{', '.join(map(str, folders))}, the first {half}_{missing[0]:05d}.webp. Give all parts to --data."
            )
        with ThreadPoolExecutor(threads) as pool:
            read = pool.map(
                lambda first, half=half, count=count: _images(
                    places[f"{half}_{first:05d}.webp"].read_bytes(), min(PER_SHEET, count - first)
                ),
                firsts,
            )
            images = np.concatenate(list(read))
        labels = np.frombuffer((known / f"{half}_labels.bin").read_bytes(), np.uint8)
        for what, array in (("images", images), ("labels", labels)):
            if hashlib.sha256(array.tobytes()).hexdigest() != facts[half][what]:
                raise CaffeSplitError(f"{known}: the {half} {what} are not those that were packed; pack them again.")
        found[half] = images, labels
    return found
