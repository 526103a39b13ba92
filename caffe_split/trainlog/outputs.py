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

_HIGH = re.compile(r"acc|top[-_ ]?\d|precision|recall|detection_eval|\bm?(?:ap|iou)\b", re.IGNORECASE)
# Words of names such as accuracy_loss and top5_err; not of acc_glossy and acc_terrier, the accuracies of classes.
_LOSS = re.compile(r"loss(?:es)?(?![a-z])", re.IGNORECASE)
_ERROR = re.compile(r"(?:(?<![a-z])err|errors?)(?![a-z])", re.IGNORECASE)


@dataclass(frozen=True)
class Value:
    """One value of a test output and where it stands (line from 1, byte offset).

    trusted: False if it was printed while the loss was not finite (see `trust`); it is then never the best. low:
    whether low values of the output are good.
    """

    net: int
    output: str
    iteration: int
    value: float
    line: int
    offset: int
    trusted: bool = True
    low: bool = False


def is_accuracy(name: str, weight: int = 0) -> bool:
    """Whether the output is a measure that should be high.

    weight: the sign of the loss weight that Caffe printed with it, which no measure has; 0: none was, and the name
    decides. In a name with slashes the last part does (loss3/top-1); in a part with several words an error is one, and
    of an accuracy and a loss the last word counts (loss1_accuracy, accuracy_loss).
    """
    part = name.rpartition("/")[2]
    if weight or _ERROR.search(part):
        return False
    high, low = (max((match.end() for match in words.finditer(part)), default=-1) for words in (_HIGH, _LOSS))
    return high > low or (high == low == -1 and "acc" in name.lower())


def is_loss(name: str, weight: int = 0) -> bool:
    """Whether the output is a loss; weight: see `is_accuracy`."""
    if weight:
        return True
    return not is_accuracy(name) and any(word in name.lower() for word in ("loss", "err", "entropy"))


def is_low(name: str, weight: int = 0) -> bool:
    """Whether the output should be low: a loss, unless its weight is below zero."""
    return is_loss(name, weight) and weight >= 0


def is_score(name: str) -> bool:
    """Whether it is one of the outputs to which the Caffe of 2014 gives numbers instead of names."""
    return re.fullmatch(r"score \d+", name) is not None


def rank(found: Value) -> tuple[float, int]:
    """A sort key, from the worst value to the best (of a loss the lowest); of equal ones the later is better."""
    sign = -1.0 if found.low else 1.0
    counts = found.trusted and not math.isnan(found.value)
    return (sign * found.value if counts else -math.inf, found.line)


def best_of(values: Iterable[Value]) -> Value | None:
    """The best of the values that count; None if none does."""
    counting = (value for value in values if value.trusted and math.isfinite(value.value))
    return max(counting, key=rank, default=None)


def values_in(table: Table, net: int, name: str, trusted: np.ndarray, low: bool) -> list[Value]:
    """The values of the output `name` of test net `net`, in the order of the table. trusted: bool per row."""
    columns = (table.iteration, table[name], table.lines[name], table.offsets[name], trusted)
    return [
        Value(net, name, iteration, value, line, offset, counts, low)
        for iteration, value, line, offset, counts in zip(*(column.tolist() for column in columns))
        if line
    ]
