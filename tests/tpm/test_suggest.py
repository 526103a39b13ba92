from __future__ import annotations

import warnings
from pathlib import Path

import numpy as np
import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.tpm.suggest import suggest_windows, suggestion_lines
from caffe_split.tpm.trust import short_windows
from caffe_split.trainlog import read_log


def log(folder: Path, iterations: np.ndarray, losses: np.ndarray) -> Path:
    path = folder / "train.log"
    stamp = "I0305 16:47:02.008569 17823 solver.cpp:218]"
    path.write_text("".join(f"{stamp} Iteration {i}, loss = {y:.6g}\n" for i, y in zip(iterations, losses)))
    return path


def staircase(folder: Path, noise: float) -> Path:
    """A loss that falls a little everywhere, and most between 400 and 500 and, less, between 700 and 800."""
    x = np.arange(0, 1001, 5)
    y = 10 - 0.001 * x - 2 * np.clip((x - 400) / 100, 0, 1) - 1 * np.clip((x - 700) / 100, 0, 1)
    return log(folder, x, y + noise * np.random.default_rng(0).standard_normal(len(x)))


@pytest.mark.parametrize("noise", [0.0, 0.1])
def test_where_the_loss_falls_fastest(tmp_path: Path, noise: float) -> None:
    best, second, _ = suggest_windows(read_log(staircase(tmp_path, noise)))
    assert abs(best.start - 400) <= 10 and abs(best.stop - 500) <= 10
    assert abs(second.start - 700) <= 15 and abs(second.stop - 800) <= 15
    assert best.fall == pytest.approx(2.1, rel=0.15) and second.fall == pytest.approx(1.1, rel=0.2)
    assert best.interval == 1


def test_windows_do_not_overlap(tmp_path: Path) -> None:
    found = suggest_windows(read_log(staircase(tmp_path, 0.05)), 200, count=10)
    assert len(found) >= 4
    for one in found:
        assert one.stop - one.start <= 200 and one.fall > 0
        assert all(one is other or one.stop <= other.start or other.stop <= one.start for other in found)
    assert [one.fall for one in found] == sorted((one.fall for one in found), reverse=True)


def test_a_single_wild_display_is_no_fall(tmp_path: Path) -> None:
    x = np.arange(0, 1001, 5)
    y = 5 - np.clip((x - 600) / 100, 0, 1)
    y[50] = 1000.0
    y[60] = np.nan
    assert abs(suggest_windows(read_log(log(tmp_path, x, y)))[0].start - 600) <= 10


def test_few_displays_widen_the_window(tmp_path: Path) -> None:
    best = suggest_windows(read_log(log(tmp_path, np.arange(0, 201, 20), np.linspace(3, 1, 11))))[0]
    assert best.stop - best.start == 60


def test_a_window_has_the_steps_that_tpm_needs_where_the_training_has_them(tmp_path: Path) -> None:
    short = read_log(log(tmp_path, np.arange(0, 31, 5), np.linspace(3, 1, 7)))
    lines = suggestion_lines(suggest_windows(short))
    assert lines[-2].startswith("note: this window has N = 15 steps; ")
    assert lines[-2].endswith("N = 44 on: train longer")
    (*_, note, _) = suggestion_lines(suggest_windows(short, 20), True)
    assert note.endswith("N = 44 on: give a longer --length")
    long = read_log(log(tmp_path, np.arange(0, 101, 5), np.linspace(3, 1, 21)))
    found = suggest_windows(long)
    assert found[0].stop - found[0].start == 45 and found[0].interval == 1
    assert not any("note" in line for line in suggestion_lines(found))
    uneven = np.delete(np.arange(0, 101, 5), [4, 9, 14])
    for window in suggest_windows(read_log(log(tmp_path, uneven, np.linspace(3, 1, len(uneven))))):
        assert window.stop - window.start >= 44
    # Nothing that `instrument` warns of.
    assert not short_windows([(found[0].start, found[0].stop)], 1, 0.9, [(4, 1, 3, 3)])


def test_a_log_of_several_processes_shows_each_iteration_twice(tmp_path: Path) -> None:
    iterations = np.repeat(np.arange(0, 101, 5), 2)
    best = suggest_windows(read_log(log(tmp_path, iterations, np.linspace(3, 1, len(iterations)))))[0]
    assert best.stop - best.start == 45


def test_losses_that_are_no_numbers_are_named(tmp_path: Path) -> None:
    losses = np.full(20, np.nan)
    for known in (0, 3):
        losses[:known] = 1.0
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            with pytest.raises(CaffeSplitError, match=rf"only {known} of its 20 displays have a loss that is a number"):
                suggest_windows(read_log(log(tmp_path, np.arange(20), losses)))


def test_logs_that_suggest_nothing(tmp_path: Path) -> None:
    with pytest.raises(CaffeSplitError, match=r"no window of 20 iterations has 4 displays of the loss .11 in all"):
        suggest_windows(read_log(log(tmp_path, np.arange(0, 201, 20), np.linspace(3, 1, 11))), 20)
    with pytest.raises(CaffeSplitError, match="falls in no window"):
        suggest_windows(read_log(log(tmp_path, np.arange(0, 201, 20), np.linspace(1, 3, 11))))
    empty = tmp_path / "empty.log"
    empty.write_text("nothing of Caffe\n")
    with pytest.raises(CaffeSplitError, match="no displayed loss"):
        suggest_windows(read_log(empty))
