"""What is a loss: the weight that Caffe prints behind its value says so, and the name only where there is none."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from caffe_split.plot.series import collect
from caffe_split.study.accuracies import accuracies
from caffe_split.trainlog import Parser, query, read_log
from caffe_split.trainlog.outputs import is_accuracy, is_loss, is_low
from caffe_split.trainlog.summary import sort_rows
from tests.support import caffe_split

STAMP = "I0305 15:00:{:02d}.000000  7 solver.cpp:1] "


def text_of(*outputs: str, tests: int = 3) -> str:
    """A log of three tests; {v} in an output is 2.3, 1.15, 0.7667."""
    lines = ["Solving net"]
    for k in range(tests):
        lines.append(f"Iteration {100 * k}, Testing net (#0)")
        lines += [
            f"    Test net output #{n}: {output.format(v=f'{2.3 / (k + 1):.4g}', a=f'{(k + 1) / 10:g}')}"
            for n, output in enumerate(outputs)
        ]
        lines.append(f"Iteration {100 * k}, loss = 1")
    lines.append("Optimization Done.")
    return "".join(STAMP.format(k % 60) + line + "\n" for k, line in enumerate(lines))


def log_of(folder: Path, *outputs: str) -> Path:
    path = folder / "train.log"
    path.write_text(text_of(*outputs))
    return path


@pytest.mark.parametrize("name", ["accuracy_loss", "vaccine_rate", "cost", "(automatic)"])
def test_an_output_with_a_weight_is_a_loss_whatever_its_name(tmp_path: Path, name: str) -> None:
    path = log_of(tmp_path, name + " = {v} (* 1 = {v} loss)", "acc = {a}")
    log = read_log(path)
    assert log.main_output() == (0, "acc") and log.best().value == 0.3 and accuracies(path).output == "acc"
    assert log.best(name).value == 0.7667 and query.best_values(log, name, 9)[-1].value == 0.7667
    (row,) = query.summarise([log])
    assert (row.output, row.best, row.test_loss, row.low) == ("acc", 0.3, 0.7667, False)
    (row,) = query.summarise([log], name)
    assert (row.best, row.final, row.low) == (0.7667, 0.7667, True)
    curves = collect([log])
    assert [curve.output for curve in curves.loss] == [name]
    assert [curve.output for curve in curves.accuracy] == ["acc"]
    values = json.loads(caffe_split("best", path, "--json", cwd=tmp_path).stdout)
    assert [value["value"] for value in values] == [0.1, 0.2, 0.3]


def test_a_weight_below_zero_lets_the_output_grow(tmp_path: Path) -> None:
    log = read_log(log_of(tmp_path, "gain = {v} (* -0.5 = -{v} loss)", "acc = {a}"))
    assert log.weight(0, "gain") == -1 and log.best("gain").value == 2.3
    assert not is_low("gain", -1) and is_loss("gain", -1) and not is_accuracy("gain", -1)


def test_of_several_runs_the_lowest_cost_is_the_best(tmp_path: Path) -> None:
    rows = []
    for name, factor in (("a", "9"), ("b", "1")):
        (tmp_path / name).mkdir()
        path = tmp_path / name / "train.log"
        path.write_text(text_of("cost = " + factor + "{v} (* 1 = " + factor + "{v} loss)"))
        rows.append(read_log(path))
    table = query.summarise(rows, "cost")
    assert [row.net for row in sort_rows(table, "best")] == ["b", "a"]
    said = caffe_split("table", tmp_path, "--output", "cost", cwd=tmp_path).stdout.splitlines()
    assert said[-1] == "best: b at 200; no snapshot of it is there"


def test_a_loss_of_any_name_that_is_not_finite_makes_the_test_count_for_nothing(tmp_path: Path) -> None:
    path = tmp_path / "train.log"
    path.write_text(text_of("accuracy = 1", "cost = nan (* 1 = nan loss)"))
    log = read_log(path)
    assert log.trouble == "test loss nan from iteration 0" and not any(value.trusted for value in log.values())
    values = json.loads(caffe_split("best", path, "--json", cwd=tmp_path).stdout)
    assert [value["trusted"] for value in values] == [False] * 3


@pytest.mark.parametrize("line", ["cost = 2.5 (* 1 = 2.5 loss)", "cost = 2.5 (* -2 = -5 loss)", "cost = 2.5"])
def test_numpy_and_patterns_see_the_same_weights(line: str) -> None:
    found = []
    for smallest in (0, 1 << 62):
        parser = Parser(2020, smallest_block=smallest, fewest_lines=1)
        parser.feed(text_of(line, "acc = {a}").encode())
        found.append(parser.log("x", 0.0).runs[0].tests[0].weights)
    assert found[0] == found[1] == ({} if "(" not in line else {"cost": -1 if "-" in line else 1})


def test_best_says_that_the_lines_of_the_pipeline_are_of_a_loss(tmp_path: Path) -> None:
    path = log_of(tmp_path, "acc = {a}", "accuracy_loss = {v} (* 1 = {v} loss)")
    done = caffe_split("best", path, cwd=tmp_path)
    assert "accuracy_loss" in done.stdout.splitlines()[-1] and f"in {path} accuracy_loss is a loss" in done.stderr
    assert (
        "is a loss"
        not in caffe_split("best", log_of(tmp_path, "acc = {a}", "loss = {v} (* 1 = {v} loss)"), cwd=tmp_path).stderr
    )


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("accuracy", "high"),
        ("loss3/top-1", "high"),
        ("loss1_accuracy", "high"),
        ("acc_glossy", "high"),
        ("acc_terrier", "high"),
        ("accuracy_loss", "low"),
        ("accuracy/loss", "low"),
        ("top5_err", "low"),
        ("error_top-1", "low"),
        ("accuracy/top", "high"),
        ("top_error_rate", "low"),
        ("cost", "neither"),
    ],
)
def test_without_a_weight_the_name_decides(name: str, kind: str) -> None:
    assert (is_accuracy(name), is_loss(name)) == (kind == "high", kind == "low")
