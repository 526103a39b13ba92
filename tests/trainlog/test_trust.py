"""A run whose loss is no longer finite has no best from there on, whatever its accuracy says."""

from __future__ import annotations

from pathlib import Path

import pytest
from click.testing import CliRunner

from caffe_split.cli import cli
from caffe_split.errors import CaffeSplitError
from caffe_split.plot.series import best_point, collect
from caffe_split.report.curves import curve_data
from caffe_split.report.page import page
from caffe_split.report.runs import read_runs
from caffe_split.trainlog import TrainingLog, query, read_log
from caffe_split.trainlog.progress import one_line, progress_of

Rows = list[tuple[int, str, str, str]]  # iteration, accuracy, test loss ("": none), train loss

# Caffe reports an accuracy of 1 beside a loss that is nan.
GONE: Rows = [(0, "0.1", "2", "2"), (10, "0.4", "1", "1"), (20, "1", "nan", "nan"), (30, "1", "nan", "nan")]


def write(path: Path, rows: Rows, *more: str, done: bool = True) -> Path:
    path.parent.mkdir(exist_ok=True)
    lines = ["Solving net"]
    for iteration, accuracy, test_loss, loss in rows:
        lines += [f"Iteration {iteration}, Testing net (#0)", f"    Test net output #0: accuracy = {accuracy}"]
        lines += [f"    Test net output #1: loss = {test_loss} (* 1 = {test_loss} loss)"] * bool(test_loss)
        lines += [f"Iteration {iteration}, loss = {loss}", f"    Train net output #0: loss = {loss}"] * bool(loss)
        lines += [message.format(loss=loss) for message in more]
        lines += [f"Iteration {iteration}, lr = 0.1"]
    lines += ["Optimization Done."] * done
    head = "I0305 15:{:02d}:{:02d}.000000  7 solver.cpp:1] "
    path.write_text("".join(head.format(k // 60, k % 60) + line + "\n" for k, line in enumerate(lines)))
    return path


def counted(log: TrainingLog) -> list[int]:
    return [value.iteration for value in log.values() if value.trusted]


@pytest.mark.parametrize(
    ("rows", "counts", "trouble"),
    [
        (GONE, [0, 10], "nan from iteration 20"),
        # Only the accuracy is printed: the display of the same iteration tells.
        ([(0, "0.1", "", "2"), (10, "1", "", "-nan")], [0], "nan from iteration 10"),
        ([(0, "0.1", "2", "2"), (10, "1", "inf", "-inf"), (20, "1", "nan", "nan")], [0], "inf from iteration 10"),
        # The test shows it before the display does, and between two displays nobody knows.
        ([(0, "0.1", "2", "2"), (5, "1", "nan", ""), (10, "1", "nan", "nan")], [0], "nan from iteration 5"),
        ([(0, "0.1", "", "2"), (5, "1", "", ""), (10, "1", "", "nan")], [0], "nan from iteration 10"),
        ([(0, "0.1", "2", "2"), (5, "0.2", "1", ""), (10, "1", "nan", "nan")], [0, 5], "nan from iteration 10"),
        # Finite again: the weights are finite, so what comes after counts.
        ([(0, "0.1", "2", "2"), (10, "1", "nan", "nan"), (20, "0.3", "1", "1")], [0, 20], ""),
        # Only the test's loss is not finite.
        ([(0, "0.1", "2", "2"), (10, "1", "nan", "1"), (20, "1", "nan", "1")], [0], "test loss nan from iteration 10"),
        ([(0, "1", "nan", "nan"), (10, "1", "nan", "nan")], [], "nan from iteration 0"),
        ([(0, "0.1", "2", "2"), (10, "nan", "1", "1")], [0, 10], ""),
    ],
)
def test_tests_count_while_the_loss_is_finite(tmp_path: Path, rows: Rows, counts: list[int], trouble: str) -> None:
    log = read_log(write(tmp_path / "train.log", rows))
    assert counted(log) == counts and log.trouble == trouble
    assert log.trusted(0).tolist() == [row[0] in counts for row in rows]


def test_one_of_several_losses_is_enough(tmp_path: Path) -> None:
    path = write(
        tmp_path / "a.log", [(0, "0.1", "", "2"), (10, "1", "", "3")], "    Train net output #1: aux/loss = nan"
    )
    assert read_log(path).trouble == "nan from iteration 0" and counted(read_log(path)) == []
    # A share of a class that does not occur is 0/0, and no loss.
    path = write(
        tmp_path / "b.log", [(0, "0.1", "", "2"), (10, "0.2", "", "3")], "    Train net output #1: share = nan"
    )
    assert read_log(path).trouble == "" and counted(read_log(path)) == [0, 10]


def test_a_later_run_may_be_sound_again(tmp_path: Path) -> None:
    path = write(tmp_path / "train.log", GONE)
    again = write(tmp_path / "again.log", [(10, "0.4", "1", "1"), (20, "0.5", "1", "1")])
    path.write_bytes(path.read_bytes() + again.read_bytes())
    log = read_log(path)
    assert log.trouble == "" and log.best().value == 0.5
    (row,) = query.summarise([log])
    assert (row.best, row.state, row.untrusted) == (0.5, "done", "nan from iteration 20")


def test_no_command_calls_it_the_best(tmp_path: Path) -> None:
    sound = write(tmp_path / "sound" / "train.log", [(0, "0.1", "2", "2"), (10, "0.3", "1", "1")])
    gone, lost = write(tmp_path / "gone" / "train.log", GONE), write(tmp_path / "lost" / "train.log", GONE[2:])
    logs = [read_log(path) for path in (sound, gone, lost)]
    rows = query.summarise(logs)
    assert [row.best for row in rows[:2]] == [0.3, 0.4] and rows[1].best_iteration == 10
    assert rows[2].best != rows[2].best and rows[2].final != rows[2].final
    assert [row.state for row in rows] == ["done", "nan from iteration 20, done", "nan from iteration 20, done"]
    with pytest.raises(CaffeSplitError, match=r"lost/train\.log has no best value: nan from iteration 20"):
        logs[2].best()
    assert "(best 0.4 at 10)  nan from iteration 20" in one_line(progress_of(logs[1], 0))
    assert "(no best)  nan from iteration 20" in one_line(progress_of(logs[2], 0))
    curves = collect(logs)
    assert [best_point(curve, False) for curve in curves.accuracy] == [1, 1, None]
    assert curves.troubles == ["", "nan from iteration 20", "nan from iteration 20"]
    panels = curve_data(logs, ["sound", "gone", "lost"])["panels"]
    assert [curve["best"] for curve in panels[1]["curves"]] == [1, 1, None]
    assert "nan from iteration 20, done at 30" in page(read_runs([sound, gone], pytest.fail), tmp_path / "x.html")


def test_the_pipelines_keep_their_lines_and_a_note_is_added(tmp_path: Path) -> None:
    path = write(tmp_path / "train.log", GONE)
    for name, lines in (("best", ["0.4", "1", "1"]), ("final", ["1"])):
        done = CliRunner().invoke(cli, [name, str(path)])
        assert [line.split("= ")[1] for line in done.stdout.splitlines()] == lines
        assert "nan from iteration 20" in done.stderr and "the best that counts is 0.4 at iteration 10" in done.stderr
    by_value = CliRunner().invoke(cli, ["best", str(path), "--output", "accuracy", "-n", "1", "--value"])
    assert by_value.stdout == "0.4\n" and "nan from iteration 20" in by_value.stderr
    sound = write(tmp_path / "sound.log", GONE[:2])
    assert CliRunner().invoke(cli, ["best", str(sound)]).stderr == ""


def test_equal_values_have_the_same_best_everywhere(tmp_path: Path) -> None:
    log = read_log(write(tmp_path / "train.log", [(k, "0.5", "1", "1") for k in (0, 600, 1000)]))
    assert log.best().iteration == query.summarise([log])[0].best_iteration == 1000
    assert "best 0.5 at 1000" in one_line(progress_of(log, 0))
    assert best_point(collect([log]).accuracy[0], lowest=False) == 2


@pytest.mark.parametrize(
    ("rows", "loss", "trouble", "counts"),
    [
        ([(0, "0.1", "2", "2"), (10, "0.4", "1", "1")], "nan", "nan from iteration 13", [0, 10]),
        ([(0, "0.1", "2", "2")], "-inf", "inf from iteration 13", [0]),
        # Before the first display.
        ([(0, "0.1", "2", "")], "nan", "nan from iteration 13", [0]),
        # Between the display at 10 and the stop nobody knows; a test's own finite loss counts.
        ([(10, "0.4", "1", "1"), (12, "1", "", "")], "nan", "nan from iteration 13", [10]),
    ],
)
def test_a_training_that_the_engine_stopped_tells_where_its_loss_was_gone(
    tmp_path: Path, rows: Rows, loss: str, trouble: str, counts: list[int]
) -> None:
    path = write(tmp_path / "a.log", rows, done=False)
    last = f"Iteration 13: the loss is {loss}; first not finite: layer 'conv1' (line 3), its top 'conv1'; no snapshot."
    with path.open("a") as stream:
        stream.write(f"F0305 15:59:00.000000  7 engine.py:223] {last}\n")
    log = read_log(path)
    assert (log.trouble, counted(log)) == (trouble, counts)
    table = CliRunner().invoke(cli, ["table", str(path)]).output
    assert trouble in table and "crashed" in table
    result = CliRunner().invoke(cli, ["best", str(path)])
    assert trouble in result.stderr
