"""Lock files: a name that one process, and those that it starts, may hold at a time.

The system releases the lock with the last process that has the file open, however it ends.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from caffe_split.errors import CaffeSplitError
from caffe_split.files.writing import PathLike, reason


class Lock:
    """A lock file that is held. A process that is to hold it, too, inherits the file descriptor `fd`."""

    def __init__(self, path: Path, fd: int) -> None:
        self.path, self.fd = path, fd


def lock_file(path: Path) -> IO[str]:
    """Open a lock file for reading and writing, made where it is not there.

    Raises `CaffeSplitError` where the system refuses.
    """
    try:
        return path.open("a+", encoding="utf-8")
    except OSError as error:
        raise CaffeSplitError(f"{path}: cannot be written: {reason(error)}") from error


@contextlib.contextmanager
def locked(path: Path, target: PathLike | None = None) -> Iterator[Lock]:
    """Hold `path`, a file that is made for it, and removed with the last process that holds it.

    Raises `BlockingIOError` where another process holds it, and `CaffeSplitError` where it cannot be made, with the
    name of the `target` that it guards, if that is given. Where the file system has no locks nobody is kept out.
    """
    try:
        fd = _take(path)
    except BlockingIOError:
        raise
    except OSError as error:
        raise CaffeSplitError(f"{target or path}: cannot be written: {reason(error)}") from error
    try:
        yield Lock(path, fd)
    finally:
        os.close(fd)
        # A process that was started may hold it still: then it is for the next one to remove.
        with contextlib.suppress(OSError):
            again = _take(path)
            os.unlink(path)
            os.close(again)


def _take(path: Path) -> int:
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            if error.errno not in (errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS):
                os.close(fd)
                raise
        if _is_at(path, fd):
            return fd
        # The process that held it until now has removed it.
        os.close(fd)


def _is_at(path: Path, fd: int) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(fd))
    except FileNotFoundError:
        return False
