"""What a loop has found: the study's table, the best round, and one plain sentence."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from caffe_split.rounds.plan import BASELINE, control_name, round_name
from caffe_split.trainlog.show import aligned


@dataclass(frozen=True)
class Row:
    """A run: test accuracy of its last snapshot, the best of its log (None: no log), and the cost of its net."""

    name: str
    accuracy: float
    best: float | None
    parameters: int | None
    macs: int | None


@dataclass(frozen=True)
class Round:
    """A round: the split run, the same folded, and its control (None without one). `kept`: splits that do not fold."""

    split: Row
    folded: Row
    control: Row | None
    kept: tuple[str, ...]


@dataclass(frozen=True)
class MultiSplits:
    """The outcome of a loop.

    baseline, rounds: what was trained, with test accuracy, parameters and multiply-adds; `rows` has all of it as a
    list. images: how many are tested, None where not known. stopped: why the loop ended before its last round, else
    empty.
    """

    baseline: Row
    rounds: tuple[Round, ...]
    images: int | None
    stopped: str = ""

    @property
    def best(self) -> Round | None:
        """The round whose folded net has the highest test accuracy, the first of equal ones; None without a round.

        Rounds with splits that do not fold cost more than the baseline, and count only where there are no others.
        """
        return max(self._rivals, key=lambda each: each.folded.accuracy, default=None)

    @property
    def _rivals(self) -> list[Round]:
        return [each for each in self.rounds if not each.kept] or list(self.rounds)

    @property
    def better_without(self) -> Row | None:
        """The best net without a split, where it does better than the best folded one; else None."""
        if self.best is None:
            return None
        plain = [self.baseline, *(each.control for each in self.rounds if each.control is not None)]
        first = max(plain, key=lambda row: row.accuracy)
        return first if first.accuracy > self.best.folded.accuracy else None

    def rows(self) -> list[Row]:
        """All runs, each round followed by its control."""
        rows = [self.baseline]
        for each in self.rounds:
            rows += [each.split, each.folded, *([each.control] if each.control else [])]
        return rows

    def table(self) -> str:
        """The table Net | Acc as text."""
        head = ("Net", "Acc", "best in log", "parameters", "multiply-adds")
        cells = [
            (row.name, f"{row.accuracy:.4f}", _number(row.best, ".4f"), _number(row.parameters), _number(row.macs))
            for row in self.rows()
        ]
        return "\n".join(aligned([head, *cells]))

    def sentence(self) -> str:
        """How much better the best round is than its control, and what that is worth."""
        best = self.best
        if best is None:
            return f"No round was finished: {self.stopped}."
        against = best.control or self.baseline
        words = "its control, trained equally long without a split" if best.control else "the baseline"
        gain = best.folded.accuracy - against.accuracy
        counted = ""
        if self.images:
            count = round(abs(gain) * self.images)
            counted = f" ({count} of {self.images:,} test images)"
        cost = "at the baseline's cost" if not best.kept else f"not all folded ({', '.join(best.kept)})"
        said = (
            f"Best: {best.split.name}, folded, {cost}: accuracy {best.folded.accuracy:.4f}, {gain:+.4f} against "
            f"{words}{counted}. One run proves little, and the best of {len(self._rivals)} was chosen on the test "
            "images: `caffe-split study` compares several seeds."
        )
        better = self.better_without
        if better is not None:
            said += f" The same net without a split did better: {better.name}, {better.accuracy:.4f}."
        return said + (f" Stopped early: {self.stopped}." if self.stopped else "")

    def as_dict(self) -> dict[str, Any]:
        """The outcome as JSON has it."""
        best = self.best
        return {
            "baseline": vars(self.baseline),
            "rounds": [
                {
                    "split": vars(each.split),
                    "folded": vars(each.folded),
                    "control": None if each.control is None else vars(each.control),
                    "kept": list(each.kept),
                }
                for each in self.rounds
            ],
            "best": None if best is None else best.split.name,
            "test_images": self.images,
            "stopped": self.stopped,
            "sentence": self.sentence(),
        }


def collect(results: dict[str, dict[str, Any]], images: int | None, stopped: str) -> MultiSplits:
    """The outcome, from the results of the steps that are finished (step's title -> result)."""
    rounds = []
    number = 1
    while (folded := results.get(f"{round_name(number)}.fold")) is not None:
        name, control = round_name(number), results.get(f"{control_name(number)}.train")
        if control is not None and "diverged" in control:
            control = None
        rounds.append(
            Round(
                split=_row(name, results[f"{name}.train"]),
                folded=_row(f"{name}, folded", folded),
                control=None if control is None else _row(control_name(number), control),
                kept=tuple(folded["kept"]),
            )
        )
        number += 1
    return MultiSplits(_row(BASELINE, results[f"{BASELINE}.train"]), tuple(rounds), images, stopped)


def _row(name: str, result: dict[str, Any]) -> Row:
    return Row(name, result["accuracy"], result.get("best"), result["parameters"], result["macs"])


def _number(value: float | None, form: str = ",") -> str:
    return "" if value is None else format(value, form)
