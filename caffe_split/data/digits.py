"""The 1797 handwritten digits that scikit-learn ships, as train and test LMDBs."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from caffe_split.data import DIGITS_TRAIN
from caffe_split.data.store import Image, difference, write_store
from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike


def write_digits(folder: PathLike, train: int = DIGITS_TRAIN, seed: int = 0, keep: bool = False) -> dict[Path, int]:
    """Write `digits_train_lmdb` (`train` images) and `digits_test_lmdb` (all others) into `folder`.

    Images are uint8 (1, 8, 8); the set's grey levels 0..16 are spread over 0..255. The order is shuffled by
    `seed`. With `keep` a store that is there stays if it is what would be written: beside another the two would share
    images. Returns the number of images in each that was written. Raises `CaffeSplitError` if another store is in the
    way, and if scikit-learn is not installed.
    """
    try:
        from sklearn.datasets import load_digits
    except ImportError as error:
        raise CaffeSplitError(
            "the digits come with scikit-learn, which is not here: pip install scikit-learn"
        ) from error
    digits = load_digits()
    images = np.round(digits.images * (255 / 16)).astype(np.uint8)[:, None]
    if not 0 < train < len(images):
        raise CaffeSplitError(f"{train} training images: the set holds {len(images)} in all; leave some for the test.")
    order = np.random.default_rng(seed).permutation(len(images))
    stores = {
        Path(folder) / "digits_train_lmdb": order[:train],
        Path(folder) / "digits_test_lmdb": order[train:],
    }
    taken = [path for path in stores if path.exists()]
    if taken and not keep:
        raise CaffeSplitError(
            f"{' and '.join(map(str, taken))} exist; nothing is overwritten. Remove them or choose another --out."
        )

    def samples(path: Path) -> Iterator[tuple[Image, int]]:
        return ((images[index], int(digits.target[index])) for index in stores[path])

    for path in taken:
        why = difference(path, samples(path))
        if why:
            raise CaffeSplitError(
                f"{path} exists, {why} {train} training images and seed {seed} give; nothing is overwritten. "
                "Move it away, or put the other set beside it."
            )
    return {path: write_store(path, samples(path)) for path in stores if path not in taken}
