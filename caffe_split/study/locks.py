"""A lock file that is held while a step runs; the system releases it when the last process that has it open ends.

A step holds its lock together with the program that it runs. Another process that wants the lock waits; the
file stays, unlike that of `files.locked`. A program that still runs although its step was killed is ended: no process
is left that would mark its end.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import IO

from caffe_split.errors import CaffeSplitError
from caffe_split.files import lock_file, make_folder

_LOOK_EVERY = 0.2
# How long a program that was interrupted may take to end, in seconds, before it is killed.
_PATIENCE = 5.0


class Held:
    """A lock that is held; a program that is to hold it, too, gets the file descriptor `fd`."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream = stream
        self.fd = stream.fileno()

    def owners(self, *pids: int) -> None:
        """Write down the processes that hold the lock, the step's own first."""
        self._stream.seek(0)
        self._stream.truncate()
        self._stream.write(" ".join([os.uname().nodename, *map(str, pids)]) + "\n")
        self._stream.flush()


@contextlib.contextmanager
def holding(path: Path, wait: bool = True) -> Iterator[Held]:
    """Hold the lock file `path`, which stays as an empty file afterwards.

    Where its first owner is alive, here or on another machine, wait for it, or raise `CaffeSplitError` without `wait`.
    Where its first owner is dead and others still hold the lock, they are ended.
    """
    make_folder(path.parent)
    with lock_file(path) as stream:
        held = Held(stream)
        since: float | None = None
        while not _locked(stream):
            host, pids = _owners(path)
            if host == os.uname().nodename and pids and not _alive(pids[0]):
                since = since if since is not None else time.monotonic()
                number = signal.SIGTERM if time.monotonic() - since < _PATIENCE else signal.SIGKILL
                _end([pid for pid in pids[1:] if _has_open(pid, path)], number)
            elif not wait:
                raise CaffeSplitError(f"{path}: process {pids[0] if pids else '?'} on {host or '?'} holds it")
            time.sleep(_LOOK_EVERY)
        held.owners(os.getpid())
        yield held
        stream.truncate(0)


def _locked(stream: IO[str]) -> bool:
    try:
        fcntl.flock(stream, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def is_held(path: Path) -> bool:
    """Whether some process holds the lock file."""
    try:
        with path.open(encoding="utf-8") as stream:
            return not _locked(stream)
    except OSError:
        return False


def _owners(path: Path) -> tuple[str, list[int]]:
    words = path.read_text(encoding="utf-8").split()
    return (words[0] if words else ""), [int(word) for word in words[1:] if word.isdigit()]


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        pass
    return True


def _has_open(pid: int, path: Path) -> bool:
    """Whether a process has the file open: another process may have got the number of one that ended."""
    folder = Path(f"/proc/{pid}/fd")
    if not Path("/proc/self/fd").exists():
        return True
    try:
        return any(link.resolve() == path.resolve() for link in folder.iterdir())
    except OSError:
        return False


def _end(pids: list[int], number: int) -> None:
    for pid in pids:
        with contextlib.suppress(ProcessLookupError, PermissionError):
            os.kill(pid, number)
