"""LevelDB data sets: read as the same LMDB is, by several at once, untouched; and written as LMDBs."""

from __future__ import annotations

import os
from pathlib import Path

import lmdb
import numpy as np
import pytest

from caffe_split.backends.caffe.child import explained
from caffe_split.data import leveldb
from caffe_split.data.leveldb import LevelDb, first_leveldb_shape, leveldb_to_lmdb
from caffe_split.data.store import open_store, read_store
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt import caffe_pb2
from tests.support import caffe_split

plyvel = pytest.importorskip("plyvel", reason="plyvel is not installed: pip install plyvel")
COUNT = 7


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A LevelDB and an LMDB of the same records, raw and float ones of several sizes, as convert_imageset has keys."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(3)
    with plyvel.DB("level", create_if_missing=True) as level, lmdb.open("store", map_size=1 << 20) as store:
        # The last keys are in the log of LevelDB, not in its tables yet.
        for start, stop in ((0, 4), (4, COUNT)):
            with level.write_batch() as batch, store.begin(write=True) as transaction:
                for index in range(start, stop):
                    image = rng.integers(256, size=(3, 4, 5), dtype=np.uint8)
                    record = caffe_pb2.Datum(channels=3, height=4, width=5, data=image.tobytes(), label=index)
                    key = f"{index:08d}_cat/{index}.jpg".encode()
                    batch.put(key, record.SerializeToString())
                    transaction.put(key, record.SerializeToString())
            if start == 0:
                level.compact_range()
    return tmp_path


def state(path: str) -> dict[str, tuple[bytes, int]]:
    return {file.name: (file.read_bytes(), file.stat().st_mtime_ns) for file in Path(path).iterdir()}


def test_several_read_it_at_once_and_nothing_is_written_into_it(folder: Path) -> None:
    before = state("level")
    assert any(name.endswith(".ldb") for name in before)
    first, second = LevelDb("level"), LevelDb("level")
    with open_store("store").begin() as transaction:
        wanted = [value for _, value in transaction.cursor()]
    assert list(first.records()) == list(second.records()) == wanted and len(wanted) == COUNT
    assert first_leveldb_shape("level") == (3, 4, 5)
    assert state("level") == before


def test_the_command_writes_the_same_records(folder: Path) -> None:
    assert caffe_split("data", "lmdb", "level", "--out", "new", cwd=folder).stdout == "new: 7 records\n"
    for (image, label), (other, same) in zip(read_store("new"), read_store("store")):
        assert label == same and np.array_equal(image, other)
    said = caffe_split("data", "lmdb", "level", "--out", "new", cwd=folder, status=1).stderr
    assert "new exists; nothing is overwritten" in said
    assert (
        "store: this is an LMDB already"
        in caffe_split("data", "lmdb", "store", "--out", "newer", cwd=folder, status=1).stderr
    )
    assert not Path("newer").exists()


def test_what_cannot_be_read_is_said(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    plyvel.DB("empty", create_if_missing=True).close()
    with pytest.raises(CaffeSplitError, match="empty: the LevelDB holds no record"):
        leveldb_to_lmdb("empty", "out")
    (table,) = Path("level").glob("*.ldb")
    damaged = bytearray(table.read_bytes())
    damaged[40:60] = bytes(20)
    table.write_bytes(damaged)
    with pytest.raises(CaffeSplitError, match=r"level: damaged: .*(checksum|[Cc]orrupt)"):
        leveldb_to_lmdb("level", "out")
    os.remove(table)
    with pytest.raises(CaffeSplitError, match=r"level: (damaged|no LevelDB that can be read)"):
        leveldb_to_lmdb("level", "out")
    assert not Path("out").exists()
    monkeypatch.setattr(leveldb, "can_read", lambda: False)
    with pytest.raises(CaffeSplitError, match=r"read by plyvel: pip install plyvel"):
        LevelDb("level")


def test_the_way_out_is_said_where_caffe_has_no_leveldb() -> None:
    assert "caffe-split data lmdb" in explained("F1129 db.cpp:20] Unknown database backend")
    assert explained("Check failed: x") == "Check failed: x"
