"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Union

from caffe_split.errors import CaffeSplitError

PathLike = Union[str, "os.PathLike[str]"]


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[str]:
    """Give the name of an empty sibling file, which takes the place of `path` when the block ends well.

    The data is flushed to disk before the rename, and the temporary file is removed when the block
    raises, so `path` is either the old file or the whole new one. The new file gets the mode that an
    ordinary `open` would have given it, or the mode of the file it replaces. A `path` that is a symbolic
    link stays one: the file it names is replaced.
    """
    target = Path(os.path.realpath(path))
    try:
        descriptor, temporary = tempfile.mkstemp(
            prefix=f".{target.name[:50]}.", suffix=".tmp", dir=target.parent
        )
    except OSError as error:
        raise CaffeSplitError(f"{os.fspath(path)}: cannot write there: {error.strerror}") from None
    os.close(descriptor)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, _mode_for(target))
        os.replace(temporary, target)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        raise


@contextlib.contextmanager
def atomic_open(path: PathLike) -> Iterator[BinaryIO]:
    """Open a sibling temporary file for writing bytes; it takes the place of `path` when the block ends well.

    See `replacing` for what that means.
    """
    # Not "wb": ext4 writes out a file that was truncated when it is closed, which for a big one takes as
    # long as writing it did, and the temporary file is empty anyway.
    with replacing(path) as temporary, open(temporary, "r+b") as stream:
        yield stream


def write_atomic(path: PathLike, data: bytes | memoryview | Iterable[bytes | memoryview]) -> None:
    """Write bytes, or pieces of bytes one after another, to `path` by way of `atomic_open`."""
    with atomic_open(path) as stream:
        if isinstance(data, (bytes, memoryview)):
            stream.write(data)
        else:
            stream.writelines(data)


def _mode_for(target: Path) -> int:
    try:
        return os.stat(target).st_mode & 0o777
    except FileNotFoundError:
        umask = os.umask(0)
        os.umask(umask)
        return 0o666 & ~umask


def check_out(out: Path, force: bool) -> None:
    """Raises `CaffeSplitError` where `out` may not be written."""
    if out.exists() and not force:
        raise CaffeSplitError(f"{out} exists; nothing is overwritten unasked. Choose another --out, or add --force.")
    if not out.parent.is_dir():
        raise CaffeSplitError(f"{out.parent}: no such folder to make {out.name} in.")


@contextlib.contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and is removed when it does not.

    With `force` it takes the place of an `out` that exists, which is untouched until then. Raises `CaffeSplitError`
    where the system refuses to write, for example because the disk is full.
    """
    building: Path | None = None
    try:
        building = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
        os.chmod(building, 0o755)
        yield building
        _flush(building)
        if force and out.exists():
            aside = Path(tempfile.mkdtemp(prefix=f".{out.name}.old.", dir=out.parent)) / out.name
            os.rename(out, aside)
            os.rename(building, out)
            shutil.rmtree(aside.parent)
        else:
            os.rename(building, out)
    except OSError as error:
        raise CaffeSplitError(
            f"{out}: cannot be written: {error.strerror or error}. Nothing is left behind, and nothing was replaced."
        ) from error
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Have all files of the folder on the disk before it gets its name."""
    for path in folder.iterdir():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


def sha256(path: PathLike) -> str:
    """The file's SHA-256, in hexadecimal."""
    digest = hashlib.sha256()
    with open(path, "rb") as stream:
        for piece in iter(lambda: stream.read(1 << 20), b""):
            digest.update(piece)
    return digest.hexdigest()
