"""A file that grows from the start, but takes the place of an earlier one only when it is worth it: a log."""

from __future__ import annotations

import contextlib
import itertools
import os
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from caffe_split.errors import CaffeSplitError
from caffe_split.files.hidden import hidden_folder
from caffe_split.files.rename import rename_new
from caffe_split.files.writing import reason


class Staged:
    """What `staged` gives.

    stream: for writing at the end. start: where the new text begins. path: where the file is now.
    """

    def __init__(self, target: Path, path: Path, stream: BinaryIO, start: int) -> None:
        self.path, self.stream, self.start = path, stream, start
        self._target, self._real = target, Path(os.path.realpath(target))
        self._before = _state(self._real)

    @property
    def is_settled(self) -> bool:
        """Whether the file is in its place."""
        return self.path == self._real

    def settle(self) -> None:
        """Put the file in its place, from now on. An earlier one that has grown in the meantime is kept beside it."""
        if self.is_settled:
            return
        if _state(self._real) != self._before:
            _rename_free(self._real, f"{self._target}.kept")
        os.replace(self.path, self._real)
        self.path = self._real

    def finish(self) -> Path:
        """Where the new text is: in its place, or, if `settle` was not called, in a new file NAME.failed."""
        if self.is_settled:
            return self._target
        with open(self.path, "rb") as source, open(self.path.with_name("new.failed"), "xb") as failed:
            source.seek(self.start)
            shutil.copyfileobj(source, failed)
        return _rename_free(self.path.with_name("new.failed"), f"{self._target}.failed")


@contextlib.contextmanager
def staged(target: Path, keep: bool) -> Iterator[Staged]:
    """A file that takes the place of `target` at `Staged.settle`; it begins with its content if `keep`.

    A `target` that is not there, or empty, is written to at once. Raises `CaffeSplitError` where the system refuses.
    """
    with contextlib.ExitStack() as stack:
        try:
            real = Path(os.path.realpath(target))
            path = real
            if real.exists() and real.stat().st_size:
                path = stack.enter_context(hidden_folder(real)) / "new"
                if keep:
                    shutil.copyfile(real, path)
            stream = stack.enter_context(open(path, "ab"))
            if path != real:
                os.chmod(path, real.stat().st_mode & 0o777)
        except OSError as error:
            raise CaffeSplitError(f"{target}: cannot be written: {reason(error)}") from error
        yield Staged(target, path, stream, stream.seek(0, os.SEEK_END))


def _state(path: Path) -> tuple[int, int]:
    try:
        found = path.stat()
    except FileNotFoundError:
        return 0, 0
    return found.st_size, found.st_mtime_ns


def _rename_free(source: Path, name: str) -> Path:
    """Rename to the first of NAME, NAME2, NAME3 ... that is free; returns it."""
    for number in itertools.count(1):
        target = Path(f"{name}{number if number > 1 else ''}")
        with contextlib.suppress(FileExistsError):
            rename_new(source, target)
            return target
    raise AssertionError
