"""Threads that decode and transform records, and how many of them there are.

Pillow and NumPy let other threads run while they decode and copy, so that threads use all cores, and no record has to
be sent from process to process.
"""

from __future__ import annotations

import os
import queue
import threading
from collections.abc import Callable

from caffe_split.engine.cores import usable_cores

# Calls a function for each of the numbers 0 to count - 1, in any order, now or later.
Run = Callable[[Callable[[int], None], int], None]

# Unless the user says how many: more than that hardly read faster, and take cores from the net.
_MOST = 4
_given: list[int] = []


def set_workers(count: int | None) -> None:
    """Decode records in `count` threads per data layer from now on; None leaves it to `count_for`."""
    _given[:] = [] if count is None else [count]


def count_for(decodes: bool) -> int:
    """The number of threads for a data layer that decodes images, or only copies records.

    Without `set_workers` that is, where images are decoded, one for each core that this process has for itself and one
    more, which decodes while another waits for Python's lock, at most 4; else 1, since copying is faster than what
    calls it.
    """
    if _given:
        return _given[0]
    beside = int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
    return min(_MOST, max(1, usable_cores() // max(1, beside)) + 1) if decodes else 1


def run_now(function: Callable[[int], None], count: int) -> None:
    """A `Run` that calls the function at once, in this thread."""
    for index in range(count):
        function(index)


class Work:
    """Calls of a function for 0 to count - 1, which several threads share; see `Workers.start`."""

    def __init__(self, function: Callable[[int], None], count: int, shares: int) -> None:
        self._function, self._count, self._shares = function, count, shares
        self._next = 0
        self._lock = threading.Lock()
        self._ended = threading.Semaphore(0)
        self._errors: dict[int, BaseException] = {}

    def share(self) -> None:
        """Do calls that no other thread does, until there are none left. After an error none is begun."""
        try:
            while True:
                with self._lock:
                    index = self._next
                    if index >= self._count or self._errors:
                        return
                    self._next += 1
                try:
                    self._function(index)
                # Whatever ends the call has to be known to the thread that waits for it.
                except BaseException as error:
                    with self._lock:
                        self._errors[index] = error
        finally:
            self._ended.release()

    def wait(self) -> None:
        """Wait until all calls are done. Raises the first error, by index: the same with any number of threads."""
        for _ in range(self._shares):
            self._ended.acquire()
        if self._errors:
            raise self._errors[min(self._errors)]


class Workers:
    """`count` threads, which end with the program, or before by `end`."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._waiting: queue.SimpleQueue[Work | None] = queue.SimpleQueue()
        for _ in range(count):
            threading.Thread(target=self._work, daemon=True).start()

    def _work(self) -> None:
        while (work := self._waiting.get()) is not None:
            work.share()

    def end(self) -> None:
        """End the threads when all that was started is done."""
        for _ in range(self._count):
            self._waiting.put(None)

    def start(self, function: Callable[[int], None], count: int) -> Work:
        """Begin to call `function` for 0 to count - 1. The work has to be waited for."""
        shares = min(self._count, count)
        work = Work(function, count, shares)
        for _ in range(shares):
            self._waiting.put(work)
        return work
