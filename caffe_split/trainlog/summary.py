"""A row of the table of runs, and how rows are sorted: without NumPy, for commands that only name the columns."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

# By what rows can be sorted, and the fields of a summary.
SORTS = {
    "net": "net",
    "best": "best",
    "final": "final",
    "loss": "test_loss",
    "time": "seconds",
    "speed": "speed",
    "iterations": "iterations",
}


@dataclass(frozen=True)
class Summary:
    """One row of the Net | Acc table. Values that the log does not hold are NaN, iterations -1.

    test_loss: in the test of the best, or the lowest of a log without an accuracy; test_loss_at: its iteration.
    difference: best minus that of the first log that has one; of `images` (-1: not known) were tested; chance: whether
    it may be chance. seconds: time in training. speed: iterations per second. state: done, stopped, running, crashed or
    cut off, after `nan from iteration N` if the loss is not finite. detail: the fatal line of a crash. untrusted: where
    the loss was not finite, so that tests do not count. started_from: the weights it started from. snapshot,
    snapshot_iteration: the file of weights nearest to the best, "" if none is there; snapshot_value: what the test at
    its iteration gave. snapshot_began: if another run of the log than that of the best wrote it: the iteration at which
    that run began; else -1. parameters, macs: the cost of the net, which is not in the log; -1 if not known. low:
    whether low values of the output are good. test_net: the one that is shown, of test_nets.
    """

    net: str
    path: str
    output: str
    best: float
    best_iteration: int
    final: float
    difference: float
    iterations: int
    seconds: float
    speed: float
    state: str
    detail: str
    untrusted: str = ""
    test_loss: float = math.nan
    images: int = -1
    chance: bool = False
    started_from: str = ""
    snapshot: str = ""
    snapshot_iteration: int = -1
    snapshot_value: float = math.nan
    parameters: int = -1
    macs: int = -1
    low: bool = False
    snapshot_began: int = -1
    test_loss_at: int = -1
    test_net: int = 0
    test_nets: int = 1

    def with_cost(self, parameters: int | None, macs: int | None) -> Summary:
        """The same row with the net's cost."""
        known = [-1 if count is None else count for count in (parameters, macs)]
        return replace(self, parameters=known[0], macs=known[1])


def sort_rows(rows: Sequence[Summary], by: str) -> list[Summary]:
    """The rows by a column, the best first (of losses and times the lowest), those without a value last."""

    def key(row: Summary) -> tuple[bool, float | str]:
        value = getattr(row, SORTS[by])
        if isinstance(value, str):
            return (False, value)
        lowest = by in ("loss", "time") or (by in ("best", "final") and row.low)
        return (math.isnan(value), value if lowest else -value)

    return sorted(rows, key=key)
