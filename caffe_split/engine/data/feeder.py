"""Batches made ready by threads while the net computes."""

from __future__ import annotations

import contextlib
import queue
import threading
import weakref
from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from caffe_split.engine.data.reader import Reader
from caffe_split.engine.data.transform import Stacker, Transformer
from caffe_split.engine.data.workers import Run, Work, Workers, run_now
from caffe_split.engine.rows import Rows

# An array for each top of the layer; the first axis counts the rows.
Batch = tuple[np.ndarray, ...]
# Seconds after which a thread whose batches are not taken looks whether they still may be.
_LOOK = 1.0


class _Pending(NamedTuple):
    """A batch, which is whole when all of `works` are done."""

    batch: Batch
    works: list[Work]


class _Maker:
    """Makes one batch after the other; see `Feeder`. The thread has this alone, so that it keeps no `Feeder` alive."""

    def __init__(self, reader: Reader, rows: Rows, transform: Transformer | Stacker | None) -> None:
        self._reader, self._rows, self._transform = reader, rows, transform
        self._number = 0

    def go_to(self, number: int) -> None:
        """See `Feeder.go_to`."""
        self._reader.skip(number * self._rows.whole)
        self._number = number

    def make(self, run: Run) -> Batch:
        """The next batch, whole when `run` has done what it was given."""
        rows = self._rows
        self._reader.skip(rows.first)
        first, *others = self._reader.read(rows.count)
        self._reader.skip(rows.whole - rows.first - rows.count)
        if self._transform is not None:
            first = self._transform(first, self._number, rows, run)
        self._number += 1
        return tuple(map(np.asarray, (first, *others)))


def _fill(maker: _Maker, ready: queue.Queue[_Pending | BaseException], ended: threading.Event, count: int) -> None:
    """In the thread: make batches, with `count` workers, until nobody takes them any more."""
    workers = Workers(count) if count > 1 else None
    try:
        while not ended.is_set():
            works: list[Work] = []

            def start(function: Callable[[int], None], count: int, works: list[Work] = works) -> None:
                assert workers is not None
                works.append(workers.start(function, count))

            _put(_Pending(maker.make(start if workers else run_now), works), ready, ended)
    except BaseException as error:
        _put(error, ready, ended)
    finally:
        if workers is not None:
            workers.end()


def _put(item: _Pending | BaseException, ready: queue.Queue[_Pending | BaseException], ended: threading.Event) -> None:
    # Looked at from time to time: what ends it may run within the queue's own lock, so it cannot wake this thread.
    while not ended.is_set():
        with contextlib.suppress(queue.Full):
            ready.put(item, timeout=_LOOK)
            return


class Feeder:
    """Makes batches ready ahead; an error there is raised when its batch is asked for.

    One thread reads the records in their order. With several workers, these decode and transform the records of a
    batch, each into its own row, so that batches are the same with any number of workers. All threads end, and files
    are closed, soon after the feeder is gone.

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
        self._maker = _Maker(reader, rows, transform)
        self._ahead = ahead
        self._count = workers
        self._ready: queue.Queue[_Pending | BaseException] = queue.Queue(ahead)
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def go_to(self, number: int) -> None:
        """Make the next batch number `number`, counted from 0. Only before the first call of `next`."""
        assert self._thread is None
        self._maker.go_to(number)

    def next(self) -> Batch:
        """The next batch. Raises `CaffeSplitError` for records that cannot be read or differ in shape."""
        if self._error is not None:
            raise self._error
        try:
            return self._next()
        except BaseException as error:
            # After an error no batch comes any more, and a caller that asks again must not wait for one.
            self._error = error
            raise

    def _next(self) -> Batch:
        if not self._ahead:
            return self._maker.make(run_now)
        if self._thread is None:
            ended = threading.Event()
            self._thread = threading.Thread(
                target=_fill, args=(self._maker, self._ready, ended, self._count), daemon=True
            )
            self._thread.start()
            weakref.finalize(self, ended.set)
        got = self._ready.get()
        if isinstance(got, BaseException):
            raise got
        for work in got.works:
            work.wait()
        return got.batch
