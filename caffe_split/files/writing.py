"""Writing single files so that a reader never sees half of one, and nothing else is lost."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import BinaryIO, Union

from caffe_split.errors import CaffeSplitError
from caffe_split.files import rename
from caffe_split.files.hidden import hidden_folder

PathLike = Union[str, "os.PathLike[str]"]

# A write of more than a megabyte out of a mapped file waits for its pages one by one, and takes twice as long.
CHUNK = 1 << 20


@contextlib.contextmanager
def replacing(path: PathLike, force: bool = True) -> Iterator[str]:
    """Give the name of an empty file, which takes the place of `path` when the block ends well.

    The data is flushed to disk before the rename, and the temporary file is removed when the block
    raises, so `path` is either the old file or the whole new one. The new file gets the mode that an
    ordinary `open` would have given it, or the mode of the file it replaces. A `path` that is a symbolic
    link stays one: the file it names is replaced.

    Without `force` nothing is replaced, not even what appears at `path` during the block.

    Raises `CaffeSplitError` if `path` is a folder or a device, if it exists without `force`, and if the system refuses
    to write.
    """
    name = os.fspath(path)
    with contextlib.ExitStack() as stack:
        try:
            target = Path(os.path.realpath(path))
            _check_plain(name, target)
            if not force:
                _check_free(name, target)
            temporary = stack.enter_context(hidden_folder(target)) / "new"
            os.close(os.open(temporary, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except (OSError, ValueError) as error:
            raise CaffeSplitError(f"{name}: cannot write there: {reason(error)}") from None
        try:
            yield os.fspath(temporary)
            with open(temporary, "rb") as stream:
                os.fsync(stream.fileno())
            if force:
                _check_plain(name, target)
                with contextlib.suppress(FileNotFoundError):
                    os.chmod(temporary, os.stat(target).st_mode & 0o777)
                os.replace(temporary, target)
            else:
                rename.rename_new(temporary, target)
        except FileExistsError:
            raise CaffeSplitError(
                f"{name} has appeared while this command ran; it stays as it is, and nothing was written."
            ) from None
        except OSError as error:
            raise CaffeSplitError(f"{name}: cannot write it: {reason(error)}") from error


def _check_plain(name: str, target: Path) -> None:
    """Raises `CaffeSplitError` for a folder, and for a device: /dev/null must not become a file."""
    if target.exists() and not target.is_file():
        what = "a folder" if target.is_dir() else "not an ordinary file"
        raise CaffeSplitError(f"{name} is {what}; give the name of a file.")


def _check_free(name: str, target: Path) -> None:
    if target.exists():
        raise CaffeSplitError(f"{name} exists; nothing is overwritten unasked. Choose another name, or add --force.")


def reason(error: OSError | ValueError) -> str:
    """The system's message, without its number and the name; a name with a NUL byte gives a ValueError."""
    return getattr(error, "strerror", None) or str(error)


@contextlib.contextmanager
def atomic_open(path: PathLike, force: bool = True) -> Iterator[BinaryIO]:
    """Open a temporary file for writing bytes; it takes the place of `path` when the block ends well.

    See `replacing` for what that means.
    """
    # Not "wb": ext4 writes out a file that was truncated when it is closed, which for a big one takes as
    # long as writing it did, and the temporary file is empty anyway.
    with replacing(path, force) as temporary, open(temporary, "r+b") as stream:
        yield stream


def write_atomic(path: PathLike, data: bytes | memoryview | Iterable[bytes | memoryview], force: bool = True) -> None:
    """Write bytes, or pieces of bytes one after another, to `path` by way of `atomic_open`."""
    with atomic_open(path, force) as stream:
        for piece in [data] if isinstance(data, (bytes, memoryview)) else data:
            for start in range(0, len(piece), CHUNK):
                stream.write(memoryview(piece)[start : start + CHUNK])


def copy_file(source: PathLike, target: PathLike, force: bool = True) -> None:
    """Copy a file's content, as `write_atomic` writes it. Raises `OSError` where `source` cannot be read."""
    with open(source, "rb") as stream:
        write_atomic(target, iter(lambda: stream.read(CHUNK), b""), force)


def check_file(path: Path, force: bool) -> None:
    """Raises `CaffeSplitError` if no file may be written at `path`; called before anything is computed.

    Its folder must exist, and `path` may be no folder or device, and no file unless `force`.
    """
    check_parent(path)
    try:
        _check_plain(str(path), path)
        if not force:
            _check_free(str(path), path)
    except OSError as error:
        raise CaffeSplitError(f"{path}: cannot be written: {reason(error)}.") from error


def check_ending(path: PathLike, endings: Sequence[str]) -> str:
    """The ending of a name, in lower case. Raises `CaffeSplitError` where it is none of `endings`.

    So a slip, such as the name of a net, does not cost that file where --force is given.
    """
    ending = Path(path).suffix.lower()
    if ending not in endings:
        raise CaffeSplitError(f"cannot write {path}: the name must end in {', '.join(endings)}")
    return ending


def check_parent(path: Path) -> None:
    """Raises `CaffeSplitError` if the folder of `path` does not exist."""
    try:
        if path.parent.is_dir():
            return
        why = f"'{path.parent}' is not a folder" if path.parent.exists() else f"there is no folder '{path.parent}'"
    except (OSError, ValueError) as error:
        why = f"cannot be written: {reason(error)}"
    raise CaffeSplitError(f"{path}: {why}.")


def check_ours(path: Path, sign: bytes, what: str) -> None:
    """Raises `CaffeSplitError` if a file is at `path` without the bytes `sign`, which all files of `what` have."""
    try:
        if path.is_file() and path.stat().st_size and sign not in path.read_bytes():
            raise CaffeSplitError(
                f"{path} exists and is no {what}; nothing is overwritten unasked. Choose another name, or remove it."
            )
    except OSError as error:
        raise CaffeSplitError(f"{path}: cannot be read: {reason(error)}") from None


def open_new(path: PathLike) -> BinaryIO:
    """Open a file for writing and reading that was not there, for what grows as it is read. Raises `OSError`."""
    return open(path, "x+b")


def append_to(path: PathLike) -> BinaryIO:
    """Open a file for writing at its end, made where it is not there: a log. Raises `OSError`."""
    return open(path, "ab")


def open_to_change(path: PathLike) -> BinaryIO:
    """Open a file for writing and reading anywhere, made where it is not there. Raises `OSError`."""
    return open(path, "r+b" if os.path.exists(path) else "x+b")


def link_files(source: PathLike, into: PathLike, leave: Collection[str] = ()) -> None:
    """Make links to the files of folder `source` in the folder `into`, except those named in `leave`.

    Raises `OSError` where the system refuses.
    """
    real = os.path.realpath(source)
    for name in os.listdir(real):
        if name not in leave:
            os.symlink(os.path.join(real, name), os.path.join(into, name))


def remove_file(path: PathLike) -> None:
    """Remove a file that this program wrote, if it is there. Raises `OSError` where the system refuses."""
    with contextlib.suppress(FileNotFoundError):
        os.unlink(path)


def replace_file(source: PathLike, target: PathLike) -> None:
    """Put a file that this program wrote in the place of another. Raises `OSError` where the system refuses."""
    os.replace(source, target)


def rename_new(source: PathLike, target: PathLike) -> None:
    """Give a file or folder another name, in the same file system.

    Raises `FileExistsError` where something has that name, and `OSError` where the system refuses.
    """
    rename.rename_new(Path(source), Path(target))


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
