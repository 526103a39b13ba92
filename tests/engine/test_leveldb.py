"""Data layers on a LevelDB: Caffe's default, read as the LMDB of the same records is."""

from __future__ import annotations

import numpy as np
import pytest

torch = pytest.importorskip("torch", reason="PyTorch is not installed: ./tools/environment --torch")
plyvel = pytest.importorskip("plyvel", reason="plyvel is not installed: pip install plyvel")

from caffe_split.data.store import open_store
from caffe_split.engine.data.images import StoreReader
from caffe_split.engine.data.leveldb import LevelReader
from caffe_split.errors import CaffeSplitError
from tests.engine.source_files import encoded, here, layer, picture, write_records

pytestmark = pytest.mark.usefixtures("folder")


def write(count: int) -> None:
    """The same raw and encoded records as "store", an LMDB, and as "level", a LevelDB."""
    records = [
        {"channels": 3, "height": 9, "width": 11, "data": bytes(range(index, index + 99)) * 3} for index in range(count)
    ]
    records[-1] = {"data": encoded(picture(2), "PNG"), "encoded": True}
    write_records(records)
    with plyvel.DB("level", create_if_missing=True) as level, open_store("store").begin() as transaction:
        for key, value in transaction.cursor():
            level.put(key, value)


def test_batches_are_those_of_the_lmdb() -> None:
    write(5)
    options = 'transform_param { scale: 0.5 mirror: true crop_size: 7 } data_param { source: "%s" batch_size: 3 %s }'
    for level in ("", "backend: LEVELDB"):
        nets = [
            here(layer("Data", options % words), "TRAIN") for words in (("level", level), ("store", "backend: LMDB"))
        ]
        for _ in range(5):
            a, b = (net.forward().blobs for net in nets)
            assert torch.equal(a["data"], b["data"]) and torch.equal(a["label"], b["label"])


@pytest.mark.parametrize("skips", [(1, 0, 4, 5, 6), (13, 2), (5, 5), (10, 1), (4, 1, 23, 0, 3), (0, 1000001)])
def test_any_number_of_records_is_passed_over_as_in_an_lmdb(skips: tuple[int, ...]) -> None:
    write(5)
    level, store = LevelReader("level"), StoreReader("store")
    assert level.shape == store.shape
    for skip in skips:
        for reader in (level, store):
            reader.skip(skip)
        (a, b), (c, d) = level.read(2), store.read(2)
        assert all(np.array_equal(one.load(), other.load()) for one, other in zip(a, c)) and np.array_equal(b, d)


def test_an_empty_one_is_refused() -> None:
    plyvel.DB("level", create_if_missing=True).close()
    with pytest.raises(CaffeSplitError, match="level: the LevelDB holds no record"):
        LevelReader("level")
