"""Renaming that never replaces: the look at the target and the rename are one step of the system.

`os.rename` replaces a file, and an empty folder, whatever came there since one last looked.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import functools
import os
from collections.abc import Callable
from pathlib import Path

# Of Linux's fcntl.h and fs.h.
_HERE = -100
_NO_REPLACE, _EXCHANGE = 1, 2
# The system, or the file system, does not have renameat2 or this flag of it.
_UNKNOWN = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP)
_NO_LINKS = (errno.EPERM, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK)


def rename_new(source: Path, target: Path) -> None:
    """Rename a file or folder within a file system. Raises `FileExistsError` if anything is at `target`."""
    if _renameat2(source, target, _NO_REPLACE):
        return
    if source.is_dir():
        # The name is taken by a folder that is made here; a rename replaces a folder only while it is empty.
        os.mkdir(target)
        try:
            _rename_folder(source, target)
        except OSError:
            with contextlib.suppress(OSError):
                os.rmdir(target)
            raise
        return
    try:
        os.link(source, target)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        os.close(os.open(target, os.O_CREAT | os.O_EXCL | os.O_WRONLY))
        os.replace(source, target)
    else:
        os.unlink(source)


def rename_again(source: Path, target: Path) -> None:
    """Give a folder the name of one that was moved away in this moment. Raises `FileExistsError` as `rename_new`.

    Where the system cannot refuse to replace, an empty folder at `target` is replaced. `rename_new` makes one itself
    there, and what others write into that, in the belief that it is the one before, would be in the way.
    """
    if not _renameat2(source, target, _NO_REPLACE):
        _rename_folder(source, target)


def _rename_folder(source: Path, target: Path) -> None:
    """Rename a folder; of what may be at `target` the system replaces an empty folder alone."""
    try:
        os.rename(source, target)
    except OSError as error:
        if error.errno in (errno.ENOTEMPTY, errno.EEXIST, errno.ENOTDIR):
            raise FileExistsError(errno.EEXIST, os.strerror(errno.EEXIST), os.fspath(target)) from None
        raise


def exchange(one: Path, other: Path) -> bool:
    """Let two names change places in one step. False where the file system cannot; nothing is done then."""
    return _renameat2(one, other, _EXCHANGE)


def _renameat2(source: Path, target: Path, flag: int) -> bool:
    call = _system_call()
    if call is None:
        return False
    if call(_HERE, os.fsencode(source), _HERE, os.fsencode(target), flag) == 0:
        return True
    number = ctypes.get_errno()
    if number in _UNKNOWN:
        return False
    raise OSError(number, os.strerror(number), os.fspath(target))


@functools.lru_cache
def _system_call() -> Callable[..., int] | None:
    """`renameat2` of the C library: glibc 2.28 and later on Linux; None elsewhere."""
    try:
        call: Callable[..., int] = ctypes.CDLL(None, use_errno=True).renameat2
    except (OSError, AttributeError):
        return None
    return call
