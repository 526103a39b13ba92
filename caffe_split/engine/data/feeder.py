"""Batches made ready by a thread while the net computes."""

from __future__ import annotations

import queue
import threading
from typing import Any

import numpy as np

from caffe_split.engine.data.reader import Reader
from caffe_split.engine.data.transform import Transformer
from caffe_split.engine.rows import Rows

# An array for each top of the layer; the first axis counts the rows.
Batch = tuple[np.ndarray, ...]


class Feeder:
    """Makes batches ready ahead, in a thread; an error there is raised when its batch is asked for.

    Args:
        reader: gives the records.
        rows: the part of each batch that this process takes.
        ahead: how many batches are made ready; 0 makes each when it is asked for, without a thread.
        transformer: applied to the first top, if any.
    """

    def __init__(self, reader: Reader, rows: Rows, ahead: int, transformer: Transformer | None = None) -> None:
        self._reader, self._transformer, self._rows = reader, transformer, rows
        self._number = 0
        self._ahead = ahead
        self._ready: queue.Queue[Batch | BaseException] = queue.Queue(ahead)
        self._thread: threading.Thread | None = None

    def go_to(self, number: int) -> None:
        """Make the next batch number `number`, counted from 0. Only before the first call of `next`."""
        assert self._thread is None
        self._reader.skip(number * self._rows.whole)
        self._number = number

    def _make(self) -> Batch:
        rows = self._rows
        self._reader.skip(rows.first)
        first: Any
        first, *others = self._reader.read(rows.count)
        self._reader.skip(rows.whole - rows.first - rows.count)
        if self._transformer is not None:
            first = self._transformer(first, self._number, rows)
        self._number += 1
        return tuple(map(np.asarray, (first, *others)))

    def _work(self) -> None:
        try:
            while True:
                self._ready.put(self._make())
        except BaseException as error:
            self._ready.put(error)

    def next(self) -> Batch:
        """The next batch. Raises `CaffeSplitError` for records that cannot be read or differ in shape."""
        if not self._ahead:
            return self._make()
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        got = self._ready.get()
        if isinstance(got, BaseException):
            raise got
        return got
