"""Holding a lock file while something runs; the system lets go of it when the process ends, however it ends."""

from __future__ import annotations

import contextlib
import fcntl
from collections.abc import Iterator
from pathlib import Path


@contextlib.contextmanager
def holding(path: Path) -> Iterator[None]:
    """Wait until nobody else holds `path`, and hold it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield
