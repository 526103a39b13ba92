"""A whole training log: what its runs hold together, and the values of its test outputs."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from caffe_split.errors import CaffeSplitError, WrongUseError, expect_count
from caffe_split.trainlog.columns import EMPTY, Part, Table
from caffe_split.trainlog.outputs import Value, best_of, is_accuracy, is_low, is_score, values_in
from caffe_split.trainlog.run import Event, Run
from caffe_split.trainlog.trust import Stretch, stretches, trusted

if TYPE_CHECKING:
    import pandas  # type: ignore[import-untyped, import-not-found, unused-ignore]

_KINDS = ("displays", "train", "lr", "clips", "batches", "tests")


@dataclass(frozen=True)
class TrainingLog:
    """A whole file: its runs in order, its length in bytes and lines, and when it was modified (seconds since 1970).

    path: the file; size: its bytes. plain: the places of its lines are byte offsets in the file; otherwise in the text
    that `text.Text` makes of it. rank: the one that was read, of a file into which several wrote. notes: what to say of
    the file, one line each.
    """

    path: str
    runs: list[Run]
    size: int
    lines: int
    modified: float
    plain: bool = True
    rank: int | None = None
    notes: tuple[str, ...] = ()

    def table(self, kind: str, net: int = 0) -> Table:
        """One table over all runs: kind is displays, train, lr, clips, batches or tests (of `net`).

        If a run starts at an iteration that an earlier run had already reached, the later run wins: the earlier rows
        from there on are left out. `seconds` counts on through the runs, without the time between them. Raises
        `WrongUseError` for another kind.
        """
        if kind not in _KINDS:
            raise WrongUseError(f"kind is {kind!r}; expected one of {', '.join(_KINDS)}.")
        parts: list[Part] = []
        for run, stop, elapsed in zip(self.runs, self._reached(), self._elapsed()):
            table = run.tests.get(net, EMPTY) if kind == "tests" else getattr(run, kind)
            for part in table.parts:
                # Batches have a count of their own.
                rows = len(part) if kind == "batches" else part.before(stop)
                parts.append(part.head(rows).later(elapsed))
        return Table(tuple(part for part in parts if len(part)))

    def replaced(self, net: int) -> tuple[Table, np.ndarray]:
        """The tests of `net` in all runs, and whether each row counts but is left out of `table`: bool (n)."""
        parts: list[Part] = []
        rows: list[np.ndarray] = []
        for run, stop, elapsed in zip(self.runs, self._reached(), self._elapsed()):
            for part in run.tests.get(net, EMPTY).parts:
                kept = part.before(stop)
                if kept < len(part):
                    parts.append(part.later(elapsed))
                    rows.append(trusted(run, net) & (np.arange(len(part)) >= kept))
        return Table(tuple(parts)), np.concatenate(rows) if rows else np.zeros(0, bool)

    def _elapsed(self) -> list[float]:
        """Per run: the seconds of training in the runs before it."""
        times = [0.0 if np.isnan(run.seconds) else max(run.seconds, 0.0) for run in self.runs]
        return [0.0, *itertools.accumulate(times)]

    def _reached(self) -> list[int]:
        """Per run: the iteration from which a later run wins."""
        limits: list[int] = []
        limit = int(np.iinfo(np.int64).max)
        for run in reversed(self.runs):
            limits.append(limit)
            if run.first_iteration >= 0:
                limit = min(limit, run.first_iteration)
        return limits[::-1]

    @property
    def seconds_once(self) -> float:
        """The seconds of training, each iteration once: of a run that was resumed, those until a later one began."""
        times = [run.seconds_to(stop) for run, stop in zip(self.runs, self._reached())]
        return sum(each for each in times if not np.isnan(each))

    @property
    def test_nets(self) -> list[int]:
        """The numbers of the test nets that printed something."""
        return sorted({net for run in self.runs for net, table in run.tests.items() if len(table)})

    @property
    def training(self) -> Run | None:
        """The last run that is a training; None if there is none, as in a log of `caffe test`."""
        return next((run for run in reversed(self.runs) if run.trains), None)

    @property
    def last_iteration(self) -> int:
        """Where the training stands: the last iteration of the last run that printed one; -1 if none did."""
        return next((run.last_iteration for run in reversed(self.runs) if run.last_iteration >= 0), -1)

    @property
    def events(self) -> list[Event]:
        """The events of all runs, in the file's order."""
        return [event for run in self.runs for event in run.events]

    def test_outputs(self) -> list[tuple[int, str]]:
        """(test net, name) of each output that was printed."""
        return [(net, name) for net in self.test_nets for name in self.table("tests", net).names]

    def main_output(self, output: str | None = None, net: int | None = None) -> tuple[int, str] | None:
        """(test net, name) of the output by which a training is judged; None if it printed no such output.

        net: the test net; None: the first that printed it. `output` None: the first accuracy; of a net with several
        heads (loss1/top-1, ...) that of the last head. If no output has a name, as in 2014, the first whose values all
        lie between 0 and 1.
        """
        known = [found for found in self.test_outputs() if net in (None, found[0])]
        if output is not None:
            return next((found for found in known if found[1] == output), None)
        some = [found for found in known if self._is_accuracy(*found)]
        if not some:
            return next((found for found in known if is_score(found[1]) and self._is_share(*found)), None)
        names = [name for of, name in some if of == some[0][0]]
        head = names[-1].rpartition("/")[0]
        return some[0][0], next(name for name in names if name.rpartition("/")[0] == head)

    def weight(self, net: int, name: str) -> int:
        """The sign of the loss weight that Caffe printed with a test output: 1, -1, or 0 if it printed none."""
        return self._weights.get((net, name), 0)

    @cached_property
    def _weights(self) -> dict[tuple[int, str], int]:
        found: dict[tuple[int, str], int] = {}
        for run in self.runs:
            for net, table in run.tests.items():
                for name, weight in table.weights.items():
                    found[net, name] = min(weight, found.get((net, name), weight))
        return found

    def _is_accuracy(self, net: int, name: str) -> bool:
        return is_accuracy(name, self.weight(net, name))

    def _is_share(self, net: int, name: str) -> bool:
        values = self.table("tests", net).printed(name)[1]
        return bool(((values >= 0) & (values <= 1) | np.isnan(values)).all())

    def run_of(self, line: int) -> int:
        """The position of the run in which a line stands."""
        return max((at for at, run in enumerate(self.runs) if run.first_line <= line), default=0)

    def same_weights(self, one: int, other: int, iteration: int) -> bool:
        """Whether two runs, by their positions, had the same weights at an iteration: none began again below it."""
        later = self.runs[min(one, other) + 1 : max(one, other) + 1]
        return all(run.first_iteration >= iteration for run in later if run.first_iteration >= 0)

    @property
    def stretches(self) -> list[list[Stretch]]:
        """Per run: the iterations at which its loss was not finite."""
        return [stretches(run) for run in self.runs]

    @property
    def trouble(self) -> str:
        """E.g. `nan from iteration 20`, if the last printed loss of the last training is not finite; else ""."""
        last = stretches(self.training) if self.training is not None else []
        return next((str(stretch) for stretch in last if stretch.stop is None), "")

    def trusted(self, net: int) -> np.ndarray:
        """Whether each row of `table("tests", net)` counts, bool (n); see `trust.trusted`."""
        parts = [
            trusted(run, net)[: run.tests[net].parts[0].before(stop)]
            for run, stop in zip(self.runs, self._reached())
            if net in run.tests
        ]
        return np.concatenate(parts) if parts else np.zeros(0, bool)

    def values(self, output: str | None = None, net: int | None = None) -> list[Value]:
        """Every printed value of a test output, in the file's order, of all runs, of `net` or of all test nets.

        `output` None: of all accuracies, which are outputs without a loss weight whose names say so. Raises
        `CaffeSplitError`, which names the outputs or test nets that exist, if there is no such output or net.
        """
        if net is not None:
            expect_count(net, "net", 0)
        if net is not None and self.test_nets and net not in self.test_nets:
            nets = ", ".join(f"#{number}" for number in self.test_nets)
            raise CaffeSplitError(f"{self.path} has no output of a test net #{net}, only of {nets}")
        result: list[Value] = []
        outputs = [found for found in self.test_outputs() if net in (None, found[0])]
        named = output
        if output is None and not any(self._is_accuracy(*found) for found in outputs):
            named = (self.main_output(net=net) or (0, None))[1]  # a score
        for run in self.runs:
            for of, table in run.tests.items():
                counts = None
                for name in table.names if net in (None, of) else ():
                    if self._is_accuracy(of, name) if named is None else name == named:
                        counts = trusted(run, of) if counts is None else counts
                        low = is_low(name, self.weight(of, name))
                        result.extend(values_in(table, of, name, counts, low))
        if result:
            return sorted(result, key=lambda value: value.line)
        known = list(dict.fromkeys(name for _, name in outputs))
        if not known:
            raise CaffeSplitError(f"{self.path} {self._what_instead()}")
        wanted = "no accuracy-like test output" if output is None else f"no test output named {output}"
        raise CaffeSplitError(f"{self.path} has {wanted}; it has: {', '.join(known)}. Choose with --output NAME")

    def best(self, output: str | None = None, net: int | None = None) -> Value:
        """The best value of a test output: the lowest of a loss, the highest otherwise; of equal ones the last.

        What was printed while the loss was not finite does not count. `output` None: the `main_output`, by which runs
        are compared. net: the test net; None: the first that printed it. Raises `CaffeSplitError` if there is none.
        """
        best = best_of(self._judged(output, net))
        if best is None:
            why = self.trouble or "no value is finite"
            raise CaffeSplitError(f"{self.path} has no best value: {why}")
        return best

    def final(self, output: str | None = None, net: int | None = None) -> Value:
        """The last value of a test output; None and errors as for `best`."""
        return self._judged(output, net)[-1]

    def to_pandas(self, kind: str = "tests", net: int = 0) -> pandas.DataFrame:
        """The table of that kind (see `table`) as a DataFrame: iteration, seconds, and a column per output.

        Raises `CaffeSplitError` if pandas is not installed.
        """
        return self.table(kind, net).to_pandas()

    def _judged(self, output: str | None, net: int | None) -> list[Value]:
        chosen = self.main_output(output, net)
        values = self.values(output, net)  # raises if there are none
        return values if chosen is None else [v for v in values if (v.net, v.output) == chosen]

    def _what_instead(self) -> str:
        """What to say of a log that has no test output."""
        if not self.size:
            return "is empty"
        if not self.runs:
            return "holds no line of a training; expected what `caffe train` writes to its standard error"
        if self.training is None:
            results = {name: value for run in self.runs for name, value in run.results.items()}
            shown = ", ".join(f"{name} {value:g}" for name, value in list(results.items())[:6])
            return f"is no training but a log of `caffe test` or `caffe time`: {shown or 'it did not come to its end'}"
        if self.training.state == "crashed":
            return f"holds no test output; the training crashed: {self.training.cause}"
        return (
            "holds no test output, no line such as `Test net output #0: accuracy = 0.5`; was the solver given a "
            "test_interval?"
        )
