"""A reader of LevelDB data sets."""

from __future__ import annotations

from typing_extensions import override

from caffe_split.data.leveldb import LevelDb
from caffe_split.engine.data.images import ImageReader, stored_record
from caffe_split.engine.data.reader import Stored
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.weights.datum import read_datum


class LevelReader(ImageReader):
    """Reads a LevelDB of Datum records in the order of the keys: raw, float or encoded images.

    color: encoded images are decoded in color (True), in gray (False), or as they are (None). Raises `CaffeSplitError`
    for a data set that is not there, is empty, or holds something else.
    """

    def __init__(self, path: str, color: bool | None = None) -> None:
        super().__init__()
        self.path, self._color = path, color
        self._store = LevelDb(path)
        # LevelDB does not know how many records it holds: their number is found at the end of the first round.
        self._entries = 0
        self._records = self._store.records()
        self._record = next(self._records, b"")
        if not self._record:
            raise CaffeSplitError(f"{path}: the LevelDB holds no record.")
        channels, height, width = self._look().shape
        self.decodes = bool(read_datum(self._record).encoded)
        self.shape = (channels, height, width)

    @override
    def _next(self) -> tuple[Stored, int]:
        return stored_record(self._record, self._color)

    @override
    def _name(self) -> str:
        return f"{self.path}: record {self._position % self._entries if self._entries else self._position}"

    @override
    def skip(self, count: int) -> None:
        target = self._position + count
        while self._position < target:
            self._position += 1
            record = next(self._records, None)
            if record is None:
                self._records = self._store.records()
                record = next(self._records)
                if not self._entries:
                    self._entries = self._position
                    # Whole rounds are passed over at once.
                    self._position += (target - self._position) // self._entries * self._entries
            self._record = record
