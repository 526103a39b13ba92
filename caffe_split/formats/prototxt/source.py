"""The text something was read from, for errors that name the place."""

from __future__ import annotations

import bisect

from caffe_split.errors import CaffeSplitError


class Source:
    """The text a document was read from: gives the line and column of an offset, and errors with them."""

    __slots__ = ("_starts", "filename", "text")

    def __init__(self, text: str, filename: str) -> None:
        self.text = text
        self.filename = filename
        self._starts: list[int] | None = None

    def place(self, offset: int) -> tuple[int, int]:
        """The line and the column, both from 1; a BOM counts for nothing."""
        if self._starts is None:
            starts = [1 if self.text.startswith("\ufeff") else 0]
            position = self.text.find("\n")
            while position >= 0:
                starts.append(position + 1)
                position = self.text.find("\n", position + 1)
            self._starts = starts
        line = max(bisect.bisect_right(self._starts, offset), 1)
        return line, max(offset - self._starts[line - 1], 0) + 1

    def error(self, offset: int, message: str) -> CaffeSplitError:
        """An error that names the file and the place of `offset`."""
        line, column = self.place(offset)
        return CaffeSplitError(f"{self.filename}:{line}:{column}: {message}")
