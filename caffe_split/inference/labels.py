"""Names of classes."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike


def read_labels(path: PathLike) -> list[str]:
    """The lines of a file: a class each, the first that of label 0. Empty lines at the end do not count.

    Raises `CaffeSplitError` where it cannot be read.
    """
    try:
        # An editor's byte order mark is no part of the first name.
        text = Path(path).read_text(encoding="utf-8-sig", errors="replace")
    except OSError as error:
        raise CaffeSplitError(f"{path}: no labels can be read: {error.strerror}; expected a class per line.") from None
    return text.rstrip().splitlines()


def check_names(names: Sequence[str] | None, classes: int, path: PathLike | None) -> list[str]:
    """The names, or numbers where there are none. Raises `CaffeSplitError` unless there is a name per class."""
    if names is None:
        return [str(number) for number in range(classes)]
    if len(names) != classes:
        raise CaffeSplitError(
            f"{path} names {len(names)} classes, and the net scores {classes}; expected one name per line."
        )
    return list(names)
