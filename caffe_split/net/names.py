r"""Lists of names of layers and blobs, as options have them: `conv1,conv2`, with `\,` for a comma within a name."""

from __future__ import annotations

import re
from collections.abc import Iterable

_COMMA = re.compile(r"(?<!\\),")


def split_names(text: str) -> list[str]:
    r"""`a,b` as ['a', 'b'], and `a\,b` as ['a,b']; blanks around a name and empty names do not count."""
    return [name.strip().replace("\\,", ",") for name in _COMMA.split(text) if name.strip()]


def join_names(names: Iterable[str]) -> str:
    """Names as one text that `split_names` takes apart."""
    return ",".join(name.replace(",", "\\,") for name in names)
