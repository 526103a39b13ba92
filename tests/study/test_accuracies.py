"""What a study reads off a log: accuracies that count."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.study.accuracies import accuracies


def log(folder: Path, tests: list[tuple[int, float, str]]) -> Path:
    """A log of tests: iteration, accuracy, loss."""
    lines = []
    for iteration, accuracy, loss in tests:
        lines.append(f"Iteration {iteration}, Testing net (#0)")
        lines.append(f"    Test net output #0: accuracy = {accuracy}")
        lines.append(f"    Test net output #1: loss = {loss} (* 1 = {loss} loss)")
        lines.append(
            f"Iteration {iteration} (1 iter/s, 1s/10 iters), loss = {loss if loss != 'nan' or iteration else 2.5}"
        )
    path = folder / "train.log"
    path.write_text("".join(f"I0101 00:00:{at:02} 7 solver.cpp:1] {line}\n" for at, line in enumerate(lines)))
    return path


def test_an_accuracy_beside_a_loss_that_is_not_finite_is_not_the_best(tmp_path: Path) -> None:
    """As the first test of a net with BatchNorm, before any training, gives it."""
    found = accuracies(log(tmp_path, [(0, 1, "nan"), (10, 0.4, "1.5"), (20, 0.6, "1.2"), (30, 0.6, "1.1")]))
    assert (found.best, found.best_iteration, found.final) == (0.6, 20, 0.6)


def test_a_training_that_ends_without_a_finite_loss_has_no_accuracy(tmp_path: Path) -> None:
    with pytest.raises(CaffeSplitError, match="the loss is not finite at the end"):
        accuracies(log(tmp_path, [(0, 0.1, "2.5"), (10, 0.4, "1.5"), (20, 1, "nan")]))
