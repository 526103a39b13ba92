"""Batches made ready by threads while the net computes."""

from __future__ import annotations

import queue
import threading
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from caffe_split.engine.data.reader import Reader
from caffe_split.engine.data.transform import Stacker, Transformer
from caffe_split.engine.data.workers import Run, Work, Workers, run_now
from caffe_split.engine.rows import Rows

# An array for each top of the layer; the first axis counts the rows.
Batch = tuple[np.ndarray, ...]


class _Pending(NamedTuple):
    """A batch, which is whole when all of `works` are done."""

    batch: Batch
    works: list[Work]


class Feeder:
    """Makes batches ready ahead; an error there is raised when its batch is asked for.

    One thread reads the records in their order. With several workers, these decode and transform the records of a
    batch, each into its own row, so that batches are the same with any number of workers.

    Args:
        reader: gives the records.
        rows: the part of each batch that this process takes.
        ahead: how many batches are made ready; 0 makes each when it is asked for, without a thread.
        transform: makes the first top of stored images; None where the reader gives arrays alone.
        workers: how many threads decode and transform; with 1, the one that reads does so.
    """

    def __init__(
        self,
        reader: Reader,
        rows: Rows,
        *,
        ahead: int,
        transform: Transformer | Stacker | None = None,
        workers: int = 1,
    ) -> None:
        self._reader, self._rows = reader, rows
        self._transform = transform
        self._number = 0
        self._ahead = ahead
        self._count = workers
        self._ready: queue.Queue[_Pending | BaseException] = queue.Queue(ahead)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def go_to(self, number: int) -> None:
        """Make the next batch number `number`, counted from 0. Only before the first call of `next`."""
        assert self._thread is None
        self._reader.skip(number * self._rows.whole)
        self._number = number

    def _make(self, run: Run) -> Batch:
        rows = self._rows
        self._reader.skip(rows.first)
        first, *others = self._reader.read(rows.count)
        self._reader.skip(rows.whole - rows.first - rows.count)
        if self._transform is not None:
            first = self._transform(first, self._number, rows, run)
        self._number += 1
        return tuple(map(np.asarray, (first, *others)))

    def _work(self) -> None:
        workers = Workers(self._count) if self._count > 1 else None
        try:
            while True:
                works: list[Work] = []

                def start(function: Callable[[int], None], count: int, works: list[Work] = works) -> None:
                    assert workers is not None
                    works.append(workers.start(function, count))

                self._ready.put(_Pending(self._make(start if workers else run_now), works))
        except BaseException as error:
            self._ready.put(error)

    def next(self) -> Batch:
        """The next batch. Raises `CaffeSplitError` for records that cannot be read or differ in shape."""
        if self._error is not None:
            raise self._error
        try:
            return self._next()
        except BaseException as error:
            # After an error no batch comes any more; whoever asks again must not wait for one.
            self._error = error
            raise

    def _next(self) -> Batch:
        if not self._ahead:
            return self._make(run_now)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True)
            self._thread.start()
        got = self._ready.get()
        if isinstance(got, BaseException):
            raise got
        for work in got.works:
            work.wait()
        return got.batch
