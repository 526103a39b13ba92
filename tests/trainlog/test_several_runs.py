"""A log of a training that was resumed from an earlier iteration: its best, the snapshots, where it stands."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_split.plot.series import collect, mark
from caffe_split.report.curves import curve_data
from caffe_split.trainlog import TrainingLog, query, read_log
from caffe_split.trainlog.snapshots import nearest_snapshot
from tests.support import caffe_split, calls

STAMP = "I0305 15:{:02d}:{:02d}.000000  7 solver.cpp:1] "
Tests = dict[int, float]


def write(folder: Path, *runs: Tests, snapshots: tuple[int, ...] = (), end: str = "Optimization Done.") -> Path:
    """A log of runs with a test at each iteration, snapshots at some; the runs resume where their tests begin."""
    lines: list[str] = []
    for tests in runs:
        lines.append("Solving net")
        for iteration, accuracy in tests.items():
            if iteration in snapshots and iteration != min(tests):
                lines.append(f"Snapshotting to binary proto file net_iter_{iteration}.caffemodel")
            lines += [f"Iteration {iteration}, Testing net (#0)", f"    Test net output #0: accuracy = {accuracy}"]
            lines.append(f"Iteration {iteration}, loss = 1")
        lines.append(end)
    path = folder / "train.log"
    path.write_text("".join(STAMP.format(k // 60 % 60, k % 60) + line + "\n" for k, line in enumerate(lines)))
    for iteration in snapshots:
        (folder / f"net_iter_{iteration}.caffemodel").write_text("x")
    return path


FIRST = {0: 0.1, 300: 0.5, 600: 0.9}
AGAIN = {300: 0.5, 600: 0.8}


def test_a_snapshot_that_a_later_run_wrote_over_is_not_that_of_the_best(tmp_path: Path) -> None:
    path = write(tmp_path, FIRST, AGAIN, snapshots=(300, 600))
    file = tmp_path / "net_iter_600.caffemodel"
    said = caffe_split("table", path, "--snapshot", cwd=tmp_path).stdout
    assert f"{file} (at 600 of the run that began at 300: 0.8)" in said
    (row,) = json.loads(caffe_split("table", path, "--json", cwd=tmp_path).stdout)
    assert (row["best"], row["snapshot_value"], row["snapshot_began"]) == (0.9, 0.8, 300)
    *_, last = json.loads(caffe_split("best", path, "--json", cwd=tmp_path).stdout)
    assert (last["value"], last["snapshot_iteration"], last["snapshot_began"]) == (0.9, 600, 300)
    said = caffe_split("best", path, "-n", 1, "--snapshot", cwd=tmp_path).stdout
    assert said.rstrip().endswith(f"{file}, of the run that began at 300, which has other weights")


def test_of_several_logs_the_closing_line_says_whose_weights_are_loaded(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / name).mkdir()
    write(tmp_path / "a", FIRST, AGAIN, snapshots=(600,))
    write(tmp_path / "b", {0: 0.1})
    said = caffe_split("table", tmp_path, cwd=tmp_path).stdout.splitlines()[-1]
    assert said == (
        "best: a at 600 (0.9), of which no snapshot is there; the nearest, of 600 of the run that began at 300 "
        f"(0.8 in its test): load {tmp_path}/a/net_iter_600.caffemodel"
    )


@pytest.mark.parametrize(
    ("runs", "began", "value"),
    [
        ((FIRST, {600: 0.9, 900: 0.7}), -1, 0.9),  # resumed at its end: the same weights
        ((FIRST, {300: 0.5, 400: 0.6}), -1, 0.9),  # stopped before it came so far
        ((FIRST, AGAIN, {600: 0.8, 700: 0.5}), 300, 0.8),
        ((FIRST, {0: 0.1, 300: 0.4}, {300: 0.4, 600: 0.5}), 300, 0.5),
        ((AGAIN, FIRST), -1, 0.9),  # the best's own run wrote last
    ],
)
def test_a_snapshot_is_of_the_best_if_no_run_began_again_below(
    tmp_path: Path, runs: list[Tests], began: int, value: float
) -> None:
    log = read_log(write(tmp_path, *runs, snapshots=(600,)))
    best = log.best()
    near = nearest_snapshot(log, best.iteration, best.line)
    assert best.value == 0.9 and near is not None and (near.iteration, near.began) == (600, began)
    (row,) = query.summarise([log])
    assert row.snapshot_value == value


def test_the_star_stands_at_the_best_of_the_table(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, FIRST, AGAIN))
    (curve,) = collect([log]).accuracy
    assert curve.y.tolist() == [0.1, 0.5, 0.8] and mark(curve, lowest=False) == (600, 0.9)
    (row,) = query.summarise([log])
    assert (row.best_iteration, row.best) == mark(curve, lowest=False)
    panel = next(p for p in curve_data([log], ["a"])["panels"] if p["title"] == "test accuracy")
    assert (panel["curves"][0]["star"], panel["curves"][0]["best"]) == ([600, 0.9], None)
    (timed,) = collect([log], x="time").accuracy
    star = mark(timed, lowest=False)
    assert star is not None and star[1] == 0.9 and timed.x[0] < star[0] < timed.x[-1]


def test_the_star_of_a_training_that_went_on_stands_on_its_curve(tmp_path: Path) -> None:
    log = read_log(write(tmp_path, FIRST, {300: 0.5, 600: 0.9}))
    (curve,) = collect([log]).accuracy
    panel = next(p for p in curve_data([log], ["a"])["panels"] if p["title"] == "test accuracy")
    assert mark(curve, lowest=False) == (600, 0.9) and (panel["curves"][0]["best"], panel["curves"][0]["star"]) == (
        2,
        None,
    )


def test_a_run_that_ended_earlier_than_the_one_before_is_done_where_it_ended(tmp_path: Path) -> None:
    path = write(tmp_path, {0: 0.1, 300: 0.5, 700: 0.8}, {300: 0.5, 500: 0.35})
    (row,) = query.summarise([read_log(path)])
    assert (row.iterations, row.final, row.state) == (500, 0.35, "done")
    assert "done at 500" in caffe_split("table", path, cwd=tmp_path).stdout


def test_a_run_that_crashed_before_it_began_leaves_the_training_where_it_was(tmp_path: Path) -> None:
    path = write(tmp_path, {0: 0.1, 700: 0.8}, end="Optimization Done.")
    with path.open("a") as stream:
        stream.write(
            STAMP.format(30, 0) + "Initializing solver\n" + STAMP.format(30, 1).replace("I", "F", 1) + "no memory\n"
        )
    (row,) = query.summarise([read_log(path)])
    assert (row.iterations, row.state) == (700, "crashed")
    assert "crashed at iteration 700" in caffe_split("final", path, "--value", cwd=tmp_path).stderr


def test_work_is_linear_in_the_number_of_runs(tmp_path: Path) -> None:
    counts = []
    for runs in (20, 100, 800):
        log = read_log(write(tmp_path, *[{100: 0.1, 200: 0.2 + run / 1e4} for run in range(runs)]))

        def work(log: TrainingLog = log) -> None:
            query.summarise([log])
            collect([log])

        counts.append(calls(work))
    # The first run also loads modules; work for each pair of runs would be 64 times as much.
    assert counts[2] < 12 * counts[1], counts
