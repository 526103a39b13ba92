"""Writing files so that a reader never sees half of one."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import BinaryIO, Union

from caffe_split.errors import CaffeSplitError

PathLike = Union[str, "os.PathLike[str]"]

# A write of more than a megabyte out of a mapped file waits for its pages one by one, and takes twice as long.
CHUNK = 1 << 20

# The file that says that this program wrote a folder, and from what.
MANIFEST = "manifest.json"


@contextlib.contextmanager
def replacing(path: PathLike) -> Iterator[str]:
    """Give the name of an empty sibling file, which takes the place of `path` when the block ends well.

    The data is flushed to disk before the rename, and the temporary file is removed when the block
    raises, so `path` is either the old file or the whole new one. The new file gets the mode that an
    ordinary `open` would have given it, or the mode of the file it replaces. A `path` that is a symbolic
    link stays one: the file it names is replaced.

    Raises `CaffeSplitError` if `path` is a folder or a device, and if the system refuses to write.
    """
    name = os.fspath(path)
    try:
        target = Path(os.path.realpath(path))
        if target.exists() and not target.is_file():
            # A rename would replace a device: /dev/null must not become a file.
            what = "a folder" if target.is_dir() else "no plain file"
            raise CaffeSplitError(f"{name}: {what}; give the name of a file")
        descriptor, temporary = tempfile.mkstemp(prefix=f".{target.name[:50]}.", suffix=".tmp", dir=target.parent)
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{name}: cannot write there: {reason(error)}") from None
    os.close(descriptor)
    try:
        yield temporary
        with open(temporary, "rb") as stream:
            os.fsync(stream.fileno())
        os.chmod(temporary, _mode_for(target))
        os.replace(temporary, target)
    except BaseException as error:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
        if isinstance(error, OSError):
            raise CaffeSplitError(f"{name}: cannot write it: {reason(error)}") from error
        raise


def reason(error: OSError | ValueError) -> str:
    """The system's message, without its number and the name; a name with a NUL byte gives a ValueError."""
    return getattr(error, "strerror", None) or str(error)


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
        for piece in [data] if isinstance(data, (bytes, memoryview)) else data:
            for start in range(0, len(piece), CHUNK):
                stream.write(memoryview(piece)[start : start + CHUNK])


def _mode_for(target: Path) -> int:
    try:
        return os.stat(target).st_mode & 0o777
    except FileNotFoundError:
        return 0o666 & ~_umask()


def _umask() -> int:
    umask = os.umask(0)
    os.umask(umask)
    return umask


def check_file(path: Path, force: bool) -> None:
    """Raises `CaffeSplitError` if `path` exists, unless `force`."""
    if path.exists() and not force:
        raise CaffeSplitError(f"{path} exists; nothing is overwritten unasked. Choose another name, or add --force.")


def check_out(out: Path, force: bool) -> None:
    """Raises `CaffeSplitError` if `out` may not be written.

    With `force` a folder may be replaced if its manifest shows that this program made it, and if nothing has been added
    since: the snapshots and logs of a training are never deleted.
    """
    try:
        there = os.path.lexists(out)
        if not out.parent.is_dir():
            raise CaffeSplitError(f"{out.parent}: no such folder to make {out.name} in.")
    except (OSError, ValueError) as error:
        raise CaffeSplitError(f"{out}: cannot be written: {reason(error)}.") from error
    if there and not force:
        raise CaffeSplitError(f"{out} exists; nothing is overwritten unasked. Choose another --out, or add --force.")
    if there:
        added = _added(out)
        if added is not None:
            raise CaffeSplitError(f"{out} {added}; it is not replaced. Move it away, or choose another --out.")


def _added(out: Path) -> str | None:
    """What is at `out` that this program did not write, as a predicate; None if nothing."""
    if out.is_symlink() or not out.is_dir():
        return "is not a folder"
    if not any(out.iterdir()):
        return None
    try:
        written = {*json.loads((out / MANIFEST).read_text(encoding="utf-8"))["outputs"], MANIFEST}
    except (OSError, ValueError, KeyError, TypeError):
        return f"is no folder that caffe-split wrote: it has no {MANIFEST} that says so"
    more = sorted(path.name for path in out.iterdir() if path.name not in written)
    if more:
        listed = ", ".join(more[:3]) + (f" and {len(more) - 3} more" if len(more) > 3 else "")
        return f"holds more than was written into it: {listed}"
    return None


@contextlib.contextmanager
def new_folder(out: Path, force: bool) -> Iterator[Path]:
    """A folder that becomes `out` when the block ends well, and is removed when it does not.

    With `force` it takes the place of an `out` that exists, which is untouched until then; see `check_out` for what
    may be replaced. Raises `CaffeSplitError` if the system refuses to write, for example because the disk is full.
    """
    building: Path | None = None
    try:
        check_out(out, force)
        building = Path(tempfile.mkdtemp(prefix=f".{out.name[:50]}.", dir=out.parent))
        os.chmod(building, 0o777 & ~_umask())
        yield building
        _flush(building)
        if os.path.lexists(out):
            aside = Path(tempfile.mkdtemp(prefix=f".{out.name[:50]}.old.", dir=out.parent)) / out.name
            os.rename(out, aside)
            try:
                os.rename(building, out)
            except OSError:
                os.rename(aside, out)
                aside.parent.rmdir()
                raise
            shutil.rmtree(aside.parent, ignore_errors=True)
        else:
            os.rename(building, out)
    except (OSError, CaffeSplitError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__  # one of its files could not be written
        if not isinstance(cause, OSError):
            raise
        raise CaffeSplitError(
            f"{out}: cannot be written: {reason(cause)}. Nothing is left behind, and nothing was replaced."
        ) from cause
    finally:
        if building is not None:
            shutil.rmtree(building, ignore_errors=True)


def _flush(folder: Path) -> None:
    """Flush all files of the folder to disk, before it gets its name."""
    for path in folder.iterdir():
        with open(path, "rb") as stream:
            os.fsync(stream.fileno())


def make_folder(path: PathLike) -> Path:
    """Make a folder, and those above it, unless it exists; returns its path.

    Raises `CaffeSplitError` if the system refuses.
    """
    folder = Path(path)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise CaffeSplitError(f"cannot make the folder {folder}: {error.strerror}") from error
    return folder


def sha256(path: PathLike) -> str:
    """The SHA-256 of a file, in hexadecimal."""
    return _digest(path, "sha256")


def md5(path: PathLike) -> str:
    """The MD5 of a file, in hexadecimal. Data sets are published with it; it proves no more than a whole download."""
    return _digest(path, "md5")


def _digest(path: PathLike, algorithm: str) -> str:
    digest = hashlib.new(algorithm)
    with open(path, "rb") as stream:
        while piece := stream.read(CHUNK):
            digest.update(piece)
    return digest.hexdigest()
