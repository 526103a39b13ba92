"""Reading what can be read only once, such as a pipe, like a file: it is kept in memory."""

from __future__ import annotations

import io
import os
import stat
from pathlib import Path
from typing import BinaryIO

# What was read, by the device and the number that the system gives it: a process reads each pipe once.
_read: dict[tuple[int, int], bytes] = {}
_KINDS = (
    (stat.S_ISFIFO, "a pipe"),
    (stat.S_ISSOCK, "a socket"),
    (stat.S_ISCHR, "a device"),
    (stat.S_ISBLK, "a device"),
)


def stream_kind(path: str | os.PathLike[str]) -> str:
    """What lies at `path` in words if it is neither a file nor a folder, such as "a pipe"; else empty."""
    try:
        mode = os.stat(path).st_mode
    except (OSError, ValueError):
        return ""
    return next((words for is_it, words in _KINDS if is_it(mode)), "")


def open_again(path: str | os.PathLike[str]) -> BinaryIO:
    """Open a file for reading from its start, without a buffer; a pipe, too, and as often as is wanted.

    Raises `OSError` where the system refuses.
    """
    if not stream_kind(path):
        return Path(path).open("rb", buffering=0)
    state = os.stat(path)
    key = state.st_dev, state.st_ino
    # Looked up first: to open a named pipe again waits for another writer.
    if key not in _read:
        with open(path, "rb") as stream:
            _read[key] = stream.read()
    return io.BytesIO(_read[key])
