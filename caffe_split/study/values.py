"""Values of a YAML file, taken out one by one; every error names the file and the key."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

from caffe_split.errors import CaffeSplitError

# PyYAML reads YAML 1.1, in which a number with an exponent has a point and a sign, as 1.0e-3; without, it is a text.
_EXPONENT = re.compile(r"[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]{1,3}")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,60}")
# How much of two words must be alike: `lr` is half of `solver`, and not meant by it.
_NEAR = 0.6
Choice = TypeVar("Choice", bound=str)


class Values:
    """Takes values of the file at `path`. Every method raises `CaffeSplitError` for what is not of its kind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def wrong(self, where: str, text: str) -> CaffeSplitError:
        """The error for the key `where`."""
        return CaffeSplitError(f"{self.path}: {where}: {text}")

    def known(self, value: Any, keys: Sequence[str], where: str) -> dict[str, Any]:
        """A mapping with no other keys than `keys`."""
        if not isinstance(value, dict):
            raise self.wrong(where, f"expected keys with values, found {value!r}")
        for key in value:
            if key not in keys:
                near = difflib.get_close_matches(str(key), keys, 1, _NEAR)
                hint = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(keys)}"
                raise self.wrong(where, f"unknown key '{key}'; {hint}")
        return value

    def whole(self, value: Any, where: str, least: int = 0) -> int:
        """A whole number of at least `least`."""
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise self.wrong(where, f"expected a whole number of {least} or more, found {value!r}")
        if value >= 1 << 63:
            raise self.wrong(where, f"{value} does not fit int64")
        return value

    def number(self, value: Any, where: str, below: float) -> float:
        """A number from 0 to less than `below`."""
        if isinstance(value, str) and _EXPONENT.fullmatch(value):
            value = float(value)
        if isinstance(value, bool) or not isinstance(value, (int, float)) or not 0 <= value < below:
            raise self.wrong(where, f"expected a number from 0 to less than {below:g}, found {value!r}")
        return float(value)

    def one_of(self, value: Any, choices: Sequence[Choice], where: str) -> Choice:
        """One of `choices`."""
        for choice in choices:
            if value == choice:
                return choice
        near = difflib.get_close_matches(str(value), choices, 1, _NEAR)
        hint = f"; did you mean '{near[0]}'?" if near else ""
        raise self.wrong(where, f"'{value}' is none of {', '.join(choices)}{hint}")

    def names(self, value: Any, where: str) -> tuple[str, ...]:
        """A list of texts, or one text."""
        if isinstance(value, str):
            value = [value]
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise self.wrong(where, f"expected a list of names, found {value!r}")
        return tuple(value)

    def name(self, value: Any, where: str) -> str:
        """A text that can be a file's name."""
        if not isinstance(value, str):
            raise self.wrong(where, f"expected a name, found {value!r}; put it in quotes")
        if not _NAME.fullmatch(value):
            raise self.wrong(where, f"{value!r} is no name; expected letters, digits, '.', '_' and '-'")
        return value
