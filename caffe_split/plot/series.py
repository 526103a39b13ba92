"""Curves out of logs: which outputs to draw, moving averages, learning-rate steps. Numbers only."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog.columns import Table
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.outputs import is_accuracy, is_loss
from caffe_split.trainlog.query import names_of

# More outputs of one run than this in one panel hide one another. The last ones are kept: nets with several
# heads print the deepest last.
MOST_OUTPUTS = 4
# More points than this in one curve cannot be seen on a screen and make drawing slow.
MOST_POINTS = 4000


@dataclass(frozen=True, eq=False)
class Curve:
    """One output of one run. x, y: float64 (n). output: its name in the log. run: the position of the log.

    trusted: bool (n), whether each value may be the best; None: all may. earlier: x and y, float64 (m), of the values
    that a later run of the log, which resumed before them, has replaced; one of them may be the best.
    """

    run: int
    output: str
    x: np.ndarray
    y: np.ndarray
    trusted: np.ndarray | None = None
    earlier: tuple[np.ndarray, np.ndarray] | None = None


@dataclass(frozen=True)
class Step:
    """The learning rate became `rate` at x, in these runs."""

    x: float
    rate: float
    runs: tuple[int, ...]


@dataclass(frozen=True)
class Curves:
    """All that one figure shows. names: one per log. x_label: with the unit.

    troubles: per log, e.g. `nan from iteration 20`, or "".
    """

    names: list[str]
    train: list[Curve]
    accuracy: list[Curve]
    loss: list[Curve]
    steps: list[Step]
    x_label: str
    troubles: list[str] = field(default_factory=list)


def collect(
    logs: Sequence[TrainingLog], x: str = "iteration", outputs: Sequence[str] = (), only: int | None = None
) -> Curves:
    """The curves of some logs.

    x: "iteration" or "time" (since the start; minutes, or hours when long). outputs: names of train and
    test outputs to draw instead of Caffe's smoothed loss, the accuracies and the losses. only: the test net that is
    drawn; None: all. Raises `CaffeSplitError` for a name that no log has, and for a net if there are others.
    """
    names = names_of([log.path for log in logs])
    order = baseline_first(names)
    logs, names = [logs[i] for i in order], [names[i] for i in order]
    divisor, label = 1.0, "iteration"
    if x == "time":
        longest = max(float(np.nanmax(log.table("displays").seconds, initial=0.0)) for log in logs)
        divisor, label = (3600.0, "hours") if longest > 7200 else (60.0, "minutes")
        label = f"time since the start, {label}"

    def axis(table: Table) -> np.ndarray:
        return table.iteration.astype(np.float64) if x == "iteration" else table.seconds / divisor

    nets = sorted({net for log in logs for net in log.test_nets})
    if only is not None and nets and only not in nets:
        there = ", ".join(f"#{net}" for net in nets)
        raise CaffeSplitError(f"no log has an output of a test net #{only}, only of {there}")
    result = Curves(names, [], [], [], [], label, [log.trouble for log in logs])
    known: dict[str, None] = {}
    for run, log in enumerate(logs):
        train = log.table("displays") if not outputs else log.table("train")
        for name in train.names:
            known[name] = None
            if name in outputs or (not outputs and name == "loss"):
                result.train.append(_curve(run, name, axis(train), train, name))
        for net in [net for net in log.test_nets if only in (None, net)]:
            tests = _Tests(log, net, axis)
            for name in tests.table.names:
                weight = log.weight(net, name)
                known[name] = None
                if outputs and name not in outputs:
                    continue
                label = name if len(log.test_nets) == 1 else f"{name} (net {net})"
                if is_loss(name, weight):
                    result.loss.append(tests.curve(run, label, name))
                elif outputs or is_accuracy(name, weight):
                    result.accuracy.append(tests.curve(run, label, name))
        if not outputs:
            _keep_last(result.accuracy, run)
            _keep_last(result.loss, run)
        _add_steps(result.steps, run, axis, log.table("lr"))
    missing = [name for name in outputs if name not in known]
    if missing:
        raise CaffeSplitError(
            f"no log has an output named {', '.join(missing)}; they have: {', '.join(known) or 'none'}"
        )
    return result


def baseline_first(names: Sequence[str]) -> list[int]:
    """The places of the runs in the order in which they are drawn: those called baseline before the others."""
    return sorted(range(len(names)), key=lambda place: "base" not in names[place].lower())


def _keep_last(kind: list[Curve], run: int) -> None:
    mine = [curve for curve in kind if curve.run == run][-MOST_OUTPUTS:]
    kind[:] = [curve for curve in kind if curve.run != run] + mine


def moving_average(values: np.ndarray, count: int) -> np.ndarray:
    """The mean of the last `count` values at each position (fewer at the start), without nan and inf."""
    finite, count = np.isfinite(values), max(1, min(count, len(values)))
    numbers = _sums_of_last(finite, count)
    with np.errstate(invalid="ignore", divide="ignore"):
        mean = _sums_of_last(np.where(finite, values, 0.0), count) / numbers
    return np.where(finite, mean, np.nan)


def _sums_of_last(values: np.ndarray, count: int) -> np.ndarray:
    """The sum of the last `count` values at each position, in one pass, and with no differences of sums.

    The values are cut into blocks of `count`. A window is the end of one block and the start of the next, so that a
    huge value takes no digits from the windows that it is not in.
    """
    blocks = np.zeros((-(-len(values) // count), count))
    blocks.ravel()[: len(values)] = values
    starts = blocks.cumsum(1).ravel()[: len(values)]
    ends = blocks[:, ::-1].cumsum(1)[:, ::-1]
    ends[:, 0] = 0.0  # A whole block is all start.
    starts[count - 1 :] += ends.ravel()[: len(values) - count + 1]
    return starts


def thin(x: np.ndarray, y: np.ndarray, most: int = MOST_POINTS) -> tuple[np.ndarray, np.ndarray]:
    """At most about `most` points that look the same: the lowest and highest of each bunch, in order."""
    if len(x) <= most:
        return x, y
    bunch = math.ceil(2 * len(x) / most)
    whole = len(x) // bunch * bunch
    blocks = y[:whole].reshape(-1, bunch)
    starts = np.arange(len(blocks)) * bunch
    low = np.where(np.isnan(blocks), np.inf, blocks).argmin(axis=1) + starts
    high = np.where(np.isnan(blocks), -np.inf, blocks).argmax(axis=1) + starts
    keep = np.unique(np.concatenate([low, high, np.arange(whole, len(x)), [0]]))
    return x[keep], y[keep]


def best_point(curve: Curve, lowest: bool) -> int | None:
    """The position of a curve's best value: the last of its highest (or lowest) finite values, as for `best`.

    None if it has no finite value that counts.
    """
    finite = np.isfinite(curve.y) & np.isfinite(curve.x)
    if curve.trusted is not None:
        finite &= curve.trusted
    if not finite.any():
        return None
    return len(curve.y) - 1 - int(np.where(finite, curve.y if lowest else -curve.y, np.inf)[::-1].argmin())


def mark(curve: Curve, lowest: bool) -> tuple[float, float] | None:
    """Where the star of the best stands, which is that of the table: on the curve, or at a value that was replaced."""
    parts = [curve]
    if curve.earlier is not None:
        parts.insert(0, replace(curve, x=curve.earlier[0], y=curve.earlier[1], trusted=None))
    star: tuple[float, float] | None = None
    for part in parts:
        place = best_point(part, lowest)
        if place is not None:
            x, y = float(part.x[place]), float(part.y[place])
            if star is None or (y <= star[1] if lowest else y >= star[1]):  # of equal ones the last is the best
                star = (x, y)
    return star


class _Tests:
    """The tests of one net in a log: what all curves of its outputs have in common, found once."""

    def __init__(self, log: TrainingLog, net: int, axis: Callable[[Table], np.ndarray]) -> None:
        self.table, self._trusted = log.table("tests", net), log.trusted(net)
        self._earlier, self._replaced = log.replaced(net)
        self._x, self._earlier_x = axis(self.table), axis(self._earlier)

    def curve(self, run: int, label: str, name: str) -> Curve:
        """The curve of an output."""
        curve = _curve(run, label, self._x, self.table, name, self._trusted)
        if name not in self._earlier.names:
            return curve
        rows, y = self._earlier.printed(name)
        x = self._earlier_x[rows]
        good = self._replaced[rows] & np.isfinite(x) & np.isfinite(y)
        return replace(curve, earlier=(x[good], y[good]))


def _curve(run: int, label: str, x: np.ndarray, table: Table, name: str, trusted: np.ndarray | None = None) -> Curve:
    rows, values = table.printed(name)
    return Curve(run, label, x[rows], values, None if trusted is None else trusted[rows])


def _add_steps(steps: list[Step], run: int, axis: Callable[[Table], np.ndarray], table: Table) -> None:
    """Add the points at which a stepped rate changes. A rate that changes all the time has no steps."""
    if len(table) < 2:
        return
    rate = table["lr"]
    change = np.flatnonzero(rate[1:] != rate[:-1]) + 1
    change = change[np.abs(rate[change] - rate[change - 1]) > 1e-3 * np.abs(rate[change - 1])]
    if len(change) > max(12, len(rate) // 50):
        return
    x = axis(table) if len(change) else rate
    for place in change[:40]:
        new = Step(float(x[place]), float(rate[place]), (run,))
        for at, old in enumerate(steps):
            if (old.x, old.rate) == (new.x, new.rate):
                steps[at] = Step(old.x, old.rate, (*old.runs, run))
                break
        else:
            steps.append(new)
