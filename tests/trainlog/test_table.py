"""The table of many runs: sorted, with snapshots, what a difference means, and which run to load."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner

from caffe_split.cli import cli
from caffe_split.trainlog import query, read_log
from caffe_split.trainlog.chance import images_of_a_test, within_chance

HEAD = "I0305 15:{:02d}:{:02d}.000000  7 solver.cpp:1] "
SOLVER = "Initializing solver from parameters: \ntest_iter: 16\ntest_iter: 3\nbase_lr: 0.1"
NET = (
    'Initializing net from parameters: \nname: "n"\nstate {{\n  phase: {phase}\n}}\nlayer {{\n  name: "data"\n'
    "  data_param {{\n    batch_size: {batch}\n  }}\n}}"
)


def write(folder: Path, values: dict[int, tuple[float, float]], *first: str, prefix: str = "") -> Path:
    folder.mkdir(parents=True)
    lines = [SOLVER, NET.format(phase="TRAIN", batch=64), NET.format(phase="TEST", batch=100), *first, "Solving net"]
    for iteration, (accuracy, loss) in values.items():
        lines += [f"Iteration {iteration}, Testing net (#0)", f"    Test net output #0: accuracy = {accuracy}"]
        lines += [f"    Test net output #1: loss = {loss} (* 1 = {loss} loss)", f"Iteration {iteration}, loss = {loss}"]
        lines += [f"Snapshotting to binary proto file {prefix}net_iter_{iteration}.caffemodel"] * bool(prefix)
    lines.append("Optimization Done.")
    text = "".join(HEAD.format(k // 60, k % 60) + line + "\n" for k, line in enumerate(lines))
    (folder / "train.log").write_text(text)
    return folder / "train.log"


def table(*words: object) -> list[str]:
    done = CliRunner().invoke(cli, ["table", *map(str, words)])
    assert done.exit_code == 0, done.output
    return done.stdout.splitlines()


def column(lines: list[str], heading: str) -> list[str]:
    at = [cell.strip() for cell in lines[0].split("|")].index(heading)
    return [line.split("|")[at].strip() for line in lines[2:] if line.startswith("|")]


def test_many_logs_are_one_command(tmp_path: Path) -> None:
    for k in range(30):
        write(
            tmp_path / f"run{k:02d}",
            {0: (0.1, 2.0), 10: (0.3 + (k * 7 % 30) / 100, 1 + k), 20: (0.2, 1)},
            prefix=f"old place/run{k:02d}/",
        )
        (tmp_path / f"run{k:02d}" / "net_iter_20.caffemodel").write_text("x")
    best = tmp_path / "run17/net_iter_10.caffemodel"
    best.write_text("x")
    lines = table(tmp_path, "--sort", "best", "--snapshot")
    assert column(lines, "Acc") == [f"{0.3 + k / 100:.6g}" for k in reversed(range(30))]
    assert column(lines, "Net")[0] == "run17" and column(lines, "Test loss")[0] == "18"
    assert column(lines, "Snapshot")[:2] == [str(best), f"{tmp_path}/run04/net_iter_20.caffemodel (at 20: 0.2)"]
    assert lines[-1] == f"best: run17 at 10, load {best}"
    assert "run13: +0.0100 is 16 of 1,600 images: within chance." in lines
    assert column(table(tmp_path, "--sort", "net"), "Net") == [f"run{k:02d}" for k in range(30)]
    assert column(table(tmp_path, "--sort", "loss"), "Test loss")[:3] == ["1", "2", "3"]
    best.unlink()
    assert table(tmp_path)[-1] == (
        "best: run17 at 10 (0.59), of which no snapshot is there; the nearest, of 20 (0.2 in its test): load "
        f"{tmp_path}/run17/net_iter_20.caffemodel"
    )
    (tmp_path / "run17/net_iter_20.caffemodel").unlink()
    assert table(tmp_path)[-1] == "best: run17 at 10; no snapshot of it is there"


def test_a_difference_of_a_few_images_is_named(tmp_path: Path) -> None:
    one = write(tmp_path / "base", {10: (0.9, 1)})
    two = write(tmp_path / "near", {10: (0.901875, 1)})
    far = write(tmp_path / "far", {10: (0.93, 1)})
    assert images_of_a_test(read_log(one)) == 1600 and images_of_a_test(read_log(one), 1) == -1
    lines = table(one, two, far)
    assert "near: +0.0019 is 3 of 1,600 images: within chance." in lines
    assert not any(line.startswith("far:") for line in lines)
    (tmp_path / "short").mkdir()
    short = tmp_path / "short/train.log"
    short.write_text(two.read_text().replace("test_iter", "rest_iter"))
    assert not any("images" in line for line in table(one, short))


def test_within_chance_is_the_interval_of_a_simulation() -> None:
    import numpy as np

    random = np.random.default_rng(1)
    p, n = 0.7, 500
    pairs = random.binomial(n, p, (20_000, 2)) / n
    outside = np.mean([not within_chance(one, other, n) for one, other in pairs])
    assert 0.04 < outside < 0.06


def test_differences_are_to_the_first_log_with_a_value(tmp_path: Path) -> None:
    empty = write(tmp_path / "empty", {})
    empty.write_text(empty.read_text() + HEAD.format(9, 9) + "Iteration 0, loss = 1\n")
    others = [write(tmp_path / name, {0: (accuracy, 1)}) for name, accuracy in (("a", 0.5), ("b", 0.75))]
    logs = [read_log(path) for path in (empty, *others)]
    rows = query.summarise(logs)
    assert [row.difference for row in rows[1:]] == [0.0, 0.25] and rows[0].difference != rows[0].difference
    from caffe_split.trainlog.show import notes

    assert notes(rows)[0].endswith("Difference: to a.")


@pytest.mark.parametrize(
    ("first", "manifest", "said"),
    [
        ((), None, ""),
        (("Finetuning from old runs/base line.caffemodel",), None, "old runs/base line.caffemodel"),
        (("Resuming from run/net_iter_5.solverstate",), None, "run/net_iter_5.solverstate"),
        (
            ("Finetuning from x.caffemodel",),
            {"plan": {"weights": "a/b/n_iter_5.caffemodel"}},
            "b/n_iter_5.caffemodel",
        ),
        ((), {"plan": []}, ""),
    ],
)
def test_what_a_run_started_from_is_said(tmp_path: Path, first: tuple[str, ...], manifest: object, said: str) -> None:
    path = write(tmp_path / "run", {0: (0.5, 1)}, *first)
    if manifest is not None:
        (path.parent / "manifest.json").write_text(json.dumps(manifest))
    (row,) = query.summarise([read_log(path)])
    assert row.started_from == said
    assert ("Started from" in table(path)[0]) == bool(said)
