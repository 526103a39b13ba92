"""What a study reads off a log: accuracies that count."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.study.accuracies import accuracies, earlier_seconds, read_trained


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


def test_of_a_resumed_training_each_iteration_counts_once(tmp_path: Path) -> None:
    """The first start came to 50 after 5 of its 9 seconds; the second took 6 from there."""
    said: list[tuple[int, Any]] = [(0, "Initializing solver from parameters"), (0, "Solving tiny")]
    said += [(1, (0, 0.1)), (5, (50, 0.5)), (9, (100, 0.6))]
    said += [(20, "Initializing solver from parameters"), (20, "Solving tiny"), (21, (50, 0.5)), (25, (100, 0.7))]
    lines = []
    for second, what in [*said, (26, "Optimization Done.")]:
        texts = [what]
        if isinstance(what, tuple):
            texts = [f"Iteration {what[0]}, Testing net (#0)", f"    Test net output #0: accuracy = {what[1]}"]
        lines += [f"I0101 00:00:{second:02}.000000 7 solver.cpp:1] {text}\n" for text in texts]
    path = tmp_path / "train.log"
    path.write_text("".join(lines))
    found = read_trained(path)
    assert found.curve == ((0, 0.1), (50, 0.5), (100, 0.7)) and found.final == 0.7
    assert found.seconds == 5 + 6 and earlier_seconds(path) == 9
    assert earlier_seconds(tmp_path / "first.log") == 0
    # A start that went on behind all that was printed before leaves nothing out.
    late = "".join(lines[-5:]).replace("Iteration 50,", "Iteration 110,").replace("Iteration 100,", "Iteration 120,")
    path.write_text("".join(lines[:-5]) + late)
    assert read_trained(path).seconds == 9 + 6
