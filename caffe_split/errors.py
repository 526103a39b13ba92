"""The toolkit's exception, checks of what is passed to its functions, and numbers in messages."""

from __future__ import annotations

import numbers
import os
from typing import Any


class CaffeSplitError(Exception):
    r"""A mistake in the input, or something missing, that the user can fix.

    The message says what is wrong, where, what was found and expected, and the next step. The command
    line prints it in place of a traceback and ends with status 1. Any other exception that escapes is a
    bug of the toolkit and keeps its traceback.

    >>> from caffe_split.formats import prototxt
    >>> try:
    ...     prototxt.parse("layer {\n  name: 'conv1\n}", filename="net.prototxt")
    ... except CaffeSplitError as error:
    ...     print(error)
    net.prototxt:2:9: the string that begins here is not closed on its line
    """


class BusyError(CaffeSplitError):
    """Another process holds what is asked for; it may be free again soon."""


class WrongUseError(CaffeSplitError):
    """Arguments that do not go together, whatever the files hold; the command line ends with status 2."""


def expect(value: Any, kind: type | tuple[type, ...], instead: str) -> None:
    """Raises `CaffeSplitError` unless `value` is of the type `kind`; `instead` says what to pass."""
    if not isinstance(value, kind):
        raise CaffeSplitError(f"expected {instead}, found {type(value).__name__} {_short(value)}")


def expect_path(value: Any, what: str) -> None:
    """Raises `CaffeSplitError` unless `value` is a path; `what` says of what."""
    expect(value, (str, os.PathLike), f"the path of {what}")


def expect_count(value: Any, name: str, least: int = 1) -> None:
    """Raises `WrongUseError` unless `value`, which is called `name`, is a whole number of `least` or more."""
    if isinstance(value, bool) or not isinstance(value, numbers.Integral) or value < least:
        raise WrongUseError(f"{name} is {value!r}, expected a whole number of {least} or more.")


def counted(count: int, noun: str, nouns: str = "") -> str:
    """A number and what it counts; `nouns` is the plural where that is not `noun` with an s.

    >>> counted(1, "layer"), counted(2, "layer"), counted(0, "axis", "axes")
    ('1 layer', '2 layers', '0 axes')
    """
    return f"{count} {noun if count == 1 else nouns or noun + 's'}"


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
