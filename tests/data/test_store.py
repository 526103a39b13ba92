"""LMDBs as they are found: whole, replaced by another one, or cut short."""

from __future__ import annotations

import gc
import shutil
from pathlib import Path

import lmdb
import numpy as np
import pytest

from caffe_split.data.digits import write_digits
from caffe_split.data.store import count_records, first_shape, open_store, read_store, write_store
from caffe_split.errors import CaffeSplitError


def write(path: Path, count: int) -> Path:
    """A store of `count` images, each filled with its number."""
    write_store(path, ((np.full((3, 32, 32), index % 256, np.uint8), index) for index in range(count)))
    return path


def test_records_come_in_their_order(tmp_path: Path) -> None:
    path = write(tmp_path / "store", 300)
    assert count_records(path) == 300 and first_shape(path) == (3, 32, 32)
    assert [(int(image[0, 0, 0]), label) for image, label in read_store(path)] == [(k % 256, k) for k in range(300)]


def test_half_of_other_digits_is_not_made_whole(tmp_path: Path) -> None:
    """Images of its training set would be in the test set."""
    pytest.importorskip("sklearn")
    for settings, why in (({"train": 198}, "with more records .198. than"), ({"seed": 1}, "with another record 0")):
        folder = tmp_path / why[:10]
        write_digits(folder, **settings)
        shutil.rmtree(folder / "digits_test_lmdb")
        with pytest.raises(CaffeSplitError, match=f"digits_train_lmdb exists, .*{why}"):
            write_digits(folder, keep=True)
        assert not (folder / "digits_test_lmdb").exists()
        assert write_digits(folder, **settings, keep=True).keys() == {folder / "digits_test_lmdb"}


@pytest.mark.parametrize("part", [0.999, 0.5, 0.02])
def test_a_store_that_was_not_copied_whole_is_refused(tmp_path: Path, part: float) -> None:
    """Reading past its end would end the process by a signal."""
    path = write(tmp_path / "store", 300)
    file = path / "data.mdb"
    whole = file.read_bytes()
    file.write_bytes(whole[: int(len(whole) * part)])
    for use in (count_records, first_shape, lambda store: list(read_store(store))):
        with pytest.raises(CaffeSplitError, match=r"store: data.mdb has [\d,]+ bytes of [\d,]+: it is cut short"):
            use(path)
    file.unlink()
    file.write_bytes(whole)
    assert count_records(path) == 300


def test_another_store_in_its_place_is_the_one_that_is_read(tmp_path: Path) -> None:
    path = write(tmp_path / "store", 3)
    assert count_records(path) == 3
    path.rename(tmp_path / "before")
    assert count_records(write(path, 5)) == 5


def test_a_store_that_nobody_reads_is_closed(tmp_path: Path) -> None:
    """LMDB lets a process open one only once, and a user of the library may want to."""
    write_store(tmp_path / "s", [(np.zeros((1, 2, 2), np.uint8), 1)])
    transaction = open_store(tmp_path / "s").begin()
    assert open_store(tmp_path / "s") is open_store(tmp_path / "s")
    with pytest.raises(lmdb.Error, match="already open in this process"):
        lmdb.open(str(tmp_path / "s"), readonly=True, lock=False)
    del transaction
    gc.collect()
    mine = lmdb.open(str(tmp_path / "s"), readonly=True, lock=False)
    with pytest.raises(CaffeSplitError, match=r"s: this process has the LMDB open, .* close yours first"):
        open_store(tmp_path / "s")
    mine.close()
    assert count_records(tmp_path / "s") == 1
