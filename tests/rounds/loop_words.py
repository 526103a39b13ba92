"""What the tests of a loop run, and a screen that remembers."""

from __future__ import annotations

from pathlib import Path

from caffe_split.rounds.options import MultiSplitOptions

SHORT = MultiSplitOptions(rounds=2, layers=2, iteration=20, threads=1)
SOLVER = "digits/solver.prototxt"
ROUNDS = ("MultiSplits", "MultiSplits2")


class Words:
    """A screen that remembers."""

    def __init__(self) -> None:
        self.said: list[str] = []

    def say(self, text: str) -> None:
        self.said.append(text)

    def line(self, text: str, done: int, total: int) -> None:
        assert 0 <= done <= total, text


def change_solver(change: tuple[str, str]) -> None:
    """Replace a text in the solver here."""
    text = Path(SOLVER).read_text()
    assert change[0] in text
    Path(SOLVER).write_text(text.replace(*change))
