"""The outputs of test nets: which should be high, which low, and their printed values."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass

from caffe_split.trainlog.columns import Table

_HIGH = re.compile(r"top[-_ ]?\d|precision|recall|detection_eval|\bm?(ap|iou)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Value:
    """One value of a test output and where it stands (line from 1, byte offset)."""

    net: int
    output: str
    iteration: int
    value: float
    line: int
    offset: int


def is_accuracy(name: str) -> bool:
    """Whether the output should be high. In a name with slashes the last part decides: loss3/top-1."""
    return "acc" in name.lower() or bool(_HIGH.search(name.rpartition("/")[2]))


def is_loss(name: str) -> bool:
    """Whether the output should be low."""
    return not is_accuracy(name) and any(word in name.lower() for word in ("loss", "err", "entropy"))


def rank(found: Value) -> tuple[float, int]:
    """A sort key, from the worst value to the best (of a loss the lowest); of equal ones the later is better."""
    sign = -1.0 if is_loss(found.output) else 1.0
    return (-math.inf if math.isnan(found.value) else sign * found.value, found.line)


def values_in(table: Table, net: int, name: str) -> list[Value]:
    """The values of the output `name` of test net `net`, in the order of the table."""
    return [
        Value(net, name, int(iteration), float(value), int(line), int(offset))
        for iteration, value, line, offset in zip(table.iteration, table[name], table.lines[name], table.offsets[name])
        if line
    ]
