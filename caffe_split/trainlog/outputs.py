"""The outputs of test nets: which should be high, which low, and their printed values."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np

    from caffe_split.trainlog.columns import Table

_HIGH = re.compile(r"top[-_ ]?\d|precision|recall|detection_eval|\bm?(ap|iou)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Value:
    """One value of a test output and where it stands (line from 1, byte offset).

    trusted: False if it was printed while the loss was not finite (see `trust`); it is then never the best.
    """

    net: int
    output: str
    iteration: int
    value: float
    line: int
    offset: int
    trusted: bool = True


def is_accuracy(name: str) -> bool:
    """Whether the output should be high. In a name with slashes the last part decides: loss3/top-1."""
    return "acc" in name.lower() or bool(_HIGH.search(name.rpartition("/")[2]))


def is_loss(name: str) -> bool:
    """Whether the output should be low."""
    return not is_accuracy(name) and any(word in name.lower() for word in ("loss", "err", "entropy"))


def is_score(name: str) -> bool:
    """Whether it is one of the outputs to which the Caffe of 2014 gives numbers instead of names."""
    return re.fullmatch(r"score \d+", name) is not None


def rank(found: Value) -> tuple[float, int]:
    """A sort key, from the worst value to the best (of a loss the lowest); of equal ones the later is better."""
    sign = -1.0 if is_loss(found.output) else 1.0
    counts = found.trusted and not math.isnan(found.value)
    return (sign * found.value if counts else -math.inf, found.line)


def best_of(values: Iterable[Value]) -> Value | None:
    """The best of the values that count; None if none does."""
    counting = (value for value in values if value.trusted and math.isfinite(value.value))
    return max(counting, key=rank, default=None)


def values_in(table: Table, net: int, name: str, trusted: np.ndarray) -> list[Value]:
    """The values of the output `name` of test net `net`, in the order of the table. trusted: bool per row."""
    columns = (table.iteration, table[name], table.lines[name], table.offsets[name], trusted)
    return [
        Value(net, name, iteration, value, line, offset, counts)
        for iteration, value, line, offset, counts in zip(*(column.tolist() for column in columns))
        if line
    ]
