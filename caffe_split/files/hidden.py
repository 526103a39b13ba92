"""Hidden folders for what is not complete yet.

Each stands beside the file or folder that is being made, so that a rename puts that in its place:

    .NAME.3f2a9c01.caffe-split/
        owner     says what the folder is for; locked as long as its process lives
        new       what is being made
        old       what it replaces, on its way out

A process that was killed leaves such a folder. The next one that writes there removes it: where `owner` says that
this program made it, and its lock is free. Neither age nor name shows that: a training writes for days, and names
are the user's to choose.
"""

from __future__ import annotations

import contextlib
import fcntl
import os
import secrets
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files.own import MANIFEST, remove_listed
from caffe_split.files.rename import rename_new

_ENDING = ".caffe-split"
_OWNER = "owner"
_MAGIC = b"caffe-split: what is not complete yet, for "
# Folders in which this process has looked for what killed ones left.
_swept: set[Path] = set()


@contextlib.contextmanager
def hidden_folder(target: Path) -> Iterator[Path]:
    """A hidden folder beside `target`, for a `new` and an `old`; it is gone when the block ends.

    Raises `OSError` where the system refuses.
    """
    if target.parent not in _swept:
        _swept.add(target.parent)
        sweep(target.parent)
    folder, lock = _claim(target)
    try:
        yield folder
    finally:
        _clear(folder, target)
        os.close(lock)


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """A folder for intermediate files, among the system's temporary ones; it is removed with all that is in it.

    Raises `CaffeSplitError` where the system refuses.
    """
    place = Path(tempfile.gettempdir()) / "scratch"
    with contextlib.ExitStack() as stack:
        try:
            work = stack.enter_context(hidden_folder(place)) / "new"
            work.mkdir()
        except OSError as error:
            raise CaffeSplitError(f"{place.parent}: no folder for intermediate files: {error.strerror}") from error
        yield work


def sweep(parent: Path) -> None:
    """Remove the hidden folders in `parent` whose owners are dead. What cannot be removed stays."""
    with contextlib.suppress(OSError):
        for entry in list(os.scandir(parent)):
            if entry.name.startswith(".") and entry.name.endswith(_ENDING) and entry.is_dir(follow_symlinks=False):
                with contextlib.suppress(OSError):
                    _sweep_one(Path(entry.path))


def _sweep_one(folder: Path) -> None:
    try:
        lock = os.open(folder / _OWNER, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        # Nobody has claimed it yet; `_claim` makes another if it is gone.
        folder.rmdir()
        return
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        said = os.read(lock, 4096)
        if said.startswith(_MAGIC) and _is_at(lock, folder / _OWNER):
            _clear(folder, folder.parent / os.fsdecode(said[len(_MAGIC) :]))
        elif not said and os.listdir(folder) == [_OWNER]:
            # Killed before its first line: an empty file is all that there is.
            os.unlink(folder / _OWNER)
            folder.rmdir()
    finally:
        os.close(lock)


def _claim(target: Path) -> tuple[Path, int]:
    """Make a hidden folder and lock its `owner`; returns both."""
    while True:
        folder = target.parent / f".{target.name[:50]}.{secrets.token_hex(4)}{_ENDING}"
        folder.mkdir(0o700)
        owner = folder / _OWNER
        try:
            lock = os.open(owner, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        except FileNotFoundError:
            continue
        except OSError:
            folder.rmdir()
            raise
        try:
            os.write(lock, _MAGIC + os.fsencode(target.name))
        except OSError:
            os.close(lock)
            shutil.rmtree(folder, ignore_errors=True)
            raise
        with contextlib.suppress(OSError):
            # Where the file system has no locks nothing is ever swept either.
            fcntl.flock(lock, fcntl.LOCK_EX)
        if _is_at(lock, owner):
            return folder, lock
        # Another process took it for that of a dead one in the moment before the lock.
        os.close(lock)


def _is_at(descriptor: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    except FileNotFoundError:
        return False


def _clear(folder: Path, target: Path) -> None:
    """Remove a hidden folder whose lock we hold. What others put into `old` is kept, under a name that is seen."""
    new, old = folder / "new", folder / "old"
    if (new / MANIFEST).is_file() and not old.exists():
        # Whole, or what it replaces if its process was killed between the two renames of a replacement.
        new.rename(old)
    elif old.exists():
        with contextlib.suppress(FileExistsError):
            rename_new(old, target)
    if old.exists():
        sweep(old)
        remove_listed(old)
    if old.exists():
        _keep(old, target)
    if new.is_dir():
        shutil.rmtree(new, ignore_errors=True)
    for path in (new, folder / _OWNER):
        with contextlib.suppress(OSError):
            path.unlink()
    with contextlib.suppress(OSError):
        folder.rmdir()


def _keep(old: Path, target: Path) -> None:
    for number in range(1, 1000):
        with contextlib.suppress(FileExistsError):
            rename_new(old, target.with_name(f"{target.name}.kept{number if number > 1 else ''}"))
            return
