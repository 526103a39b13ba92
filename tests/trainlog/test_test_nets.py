"""Logs of several test nets, what is said of them, and --net; logs without an accuracy, and without a test."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.plot.series import collect
from caffe_split.trainlog import query, read_log
from caffe_split.trainlog.progress import one_line, progress_of
from tests.support import caffe_split

STAMP = "I0305 15:{:02d}:{:02d}.000000  7 solver.cpp:1] "


def write(folder: Path, lines: list[str]) -> Path:
    path = folder / "train.log"
    path.write_text("".join(STAMP.format(k // 60, k % 60) + line + "\n" for k, line in enumerate(lines)))
    return path


@pytest.fixture
def two(tmp_path: Path) -> Path:
    """Net 0 ends at 0.3, its best; net 1 has 0.9 at first."""
    lines = ["Solving net"]
    for k, (zero, one) in enumerate([(0.1, 0.9), (0.2, 0.8), (0.3, 0.7)]):
        for net, accuracy in enumerate((zero, one)):
            lines += [f"Iteration {100 * k}, Testing net (#{net})", f"    Test net output #0: accuracy = {accuracy}"]
            lines.append(f"    Test net output #1: loss = {1 + net} (* 1 = {1 + net} loss)")
        lines.append(f"Iteration {100 * k}, loss = 1")
    return write(tmp_path, [*lines, "Optimization Done."])


def test_a_table_says_which_net_it_shows_and_shows_another(two: Path) -> None:
    said = caffe_split("table", two, cwd=two.parent).stdout
    assert (
        f"{two.parent.name}: 2 test nets; shown is #0, `caffe-split table --net N` shows another." in said.splitlines()
    )
    (row,) = json.loads(caffe_split("table", two, "--json", "--net", 1, cwd=two.parent).stdout)
    assert (row["best"], row["final"], row["best_iteration"], row["test_loss"]) == (0.9, 0.7, 0, 2)
    assert (row["test_net"], row["test_nets"]) == (1, 2)


def test_best_prints_the_lines_of_all_nets_and_says_so_or_those_of_one(two: Path) -> None:
    done = caffe_split("best", two, cwd=two.parent)
    note = f"note: {two}: it has several test nets (#0, #1); --net N shows one"
    assert done.stdout.split()[-1] == "0.9" and note in done.stderr
    done = caffe_split("best", two, "--net", 0, cwd=two.parent)
    assert [line.split()[-1] for line in done.stdout.splitlines()] == ["0.1", "0.2", "0.3"] and not done.stderr
    assert note in caffe_split("best", two, "--output", "accuracy", "--value", cwd=two.parent).stderr
    done = caffe_split("best", two, "--output", "accuracy", "--value", "--net", 1, cwd=two.parent)
    assert done.stdout.split() == ["0.7", "0.8", "0.9"] and not done.stderr


def test_final_prints_the_last_test_of_one_net(two: Path) -> None:
    assert "(#0, #1)" in caffe_split("final", two, "--value", cwd=two.parent).stderr
    for net, value in enumerate(["0.3", "0.7"]):
        done = caffe_split("final", two, "--value", "--net", net, cwd=two.parent)
        assert done.stdout.split() == [value] and not done.stderr


def test_final_says_that_the_lines_before_the_end_are_not_of_all_nets(tmp_path: Path, two: Path) -> None:
    lines = [line for line in two.read_text().splitlines() if not line.endswith("200, loss = 1")]
    two.write_text("\n".join(lines) + "\n")
    done = caffe_split("final", two, cwd=tmp_path)
    assert done.stdout.split()[-1] == "0.7" and "several test nets (#0, #1)" in done.stderr


def test_watch_says_which_net_it_shows(two: Path) -> None:
    done = caffe_split("watch", two, "--once", cwd=two.parent)
    assert "accuracy 0.3 (best 0.3 at 200)" in done.stdout and "2 test nets; shown is #0" in done.stderr
    assert "accuracy 0.7 (best 0.9 at 0)" in caffe_split("watch", two, "--once", "--net", 1, cwd=two.parent).stdout
    assert "accuracy 0.7 (best 0.9 at 0)" in one_line(progress_of(read_log(two), 0, 1))


def test_plots_draw_all_nets_or_one(two: Path) -> None:
    log = read_log(two)
    assert [curve.output for curve in collect([log]).accuracy] == ["accuracy (net 0)", "accuracy (net 1)"]
    (curve,) = collect([log], only=1).accuracy
    assert curve.y.tolist() == [0.9, 0.8, 0.7] and log.best(net=1).value == 0.9 and log.final(net=1).value == 0.7


def test_a_net_that_is_not_there_is_refused_with_those_that_are(two: Path) -> None:
    said = f"{two} has no output of a test net #7, only of #0, #1"
    for words in (["best"], ["final"], ["table"], ["watch", "--once"]):
        done = caffe_split(*words, two, "--net", 7, cwd=two.parent, status=1)
        assert said in done.stderr
    with pytest.raises(CaffeSplitError, match="an output of a test net #7, only of #0, #1"):
        collect([read_log(two)], only=7)


def test_a_report_compares_the_net_that_is_asked_for(two: Path) -> None:
    caffe_split("report", two, "--net", 1, "--out", "page.html", cwd=two.parent)
    page = (two.parent / "page.html").read_text()
    assert "<td>0.9</td>" in page and "2 test nets; shown is #1" in page


@pytest.mark.parametrize("name", ["loss", "(automatic)"])
def test_a_log_without_an_accuracy_has_its_lowest_test_loss(tmp_path: Path, name: str) -> None:
    lines = ["Solving net"]
    for k, loss in enumerate([2.0, 0.5, 0.75]):
        lines += [
            f"Iteration {100 * k}, Testing net (#0)",
            f"    Test net output #0: {name} = {loss} (* 1 = {loss} loss)",
        ]
    log = read_log(write(tmp_path, [*lines, "Optimization Done."]))
    (row,) = query.summarise([log])
    assert (row.output, row.test_loss, row.test_loss_at, row.best_iteration) == ("", 0.5, 100, -1)
    done = caffe_split("table", log.path, cwd=tmp_path, status=1)
    assert f"| {row.test_loss:g} " in done.stdout
    assert done.stdout.endswith(f"\n\n{row.net}: no accuracy; its test loss is the lowest, at 100.\n")


def test_of_a_crash_before_the_first_test_the_reason_is_said(tmp_path: Path) -> None:
    path = write(tmp_path, ["Solving net"])
    with path.open("a") as stream:
        stream.write(
            STAMP.format(1, 0).replace("I", "F", 1) + "Check failed: error == cudaSuccess (2 vs. 0)  out of memory\n"
        )
    for command in ("best", "table"):
        said = caffe_split(command, path, cwd=tmp_path, status=1).stderr
        assert "holds no test output; the training crashed: solver.cpp:1] Check failed: error == cudaSuccess" in said


def test_a_net_is_a_number(two: Path) -> None:
    with pytest.raises(CaffeSplitError, match="net is '0', expected a whole number of 0 or more"):
        read_log(two).best(net="0")  # type: ignore[arg-type]
