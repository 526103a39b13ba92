"""The log commands as a user meets them."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_split.trainlog import pipeline
from caffe_split.trainlog.follow import Follower

LOGS = Path(__file__).parent / "logs"


def run(*words: str, cwd: Path = LOGS) -> tuple[int, str, str]:
    command = [sys.executable, "-m", "caffe_split", *words]
    done = subprocess.run(command, cwd=cwd, capture_output=True, check=False, timeout=60)
    return done.returncode, done.stdout.decode("utf-8", "replace"), done.stderr.decode("utf-8", "replace")


def test_best_of_several_is_the_pipeline_over_each() -> None:
    status, said, notes = run("best", "bvlc_1_0.log", "six_runs.log")
    expected = [f.text for name in ("bvlc_1_0", "six_runs") for f in pipeline.best_lines(LOGS / f"{name}.log", 3)]
    assert status == 0 and said.encode().splitlines() == expected
    assert "==> six_runs.log <==" in notes


@pytest.mark.parametrize(
    ("words", "lines"),
    [
        (["bvlc_1_0.log", "--value"], ["0.1", "0.6716"]),
        (["bvlc_1_0.log", "--output", "loss", "--value"], ["2.3", "1.3"]),  # the lowest last
        (["diverged.log", "--output", "accuracy", "--value"], ["nan", "0.12"]),
        (["diverged.log", "--output", "L2_Loss", "--value", "-n", "1"], ["1.5e+07"]),
        (["googlenet.log", "--output", "loss3/top-1", "--value", "-n", "1"], ["0.42"]),
    ],
)
def test_best_values(words: list[str], lines: list[str]) -> None:
    status, said, _ = run("best", *words)
    assert status == 0 and said.split() == lines


def test_best_snapshot(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_bytes((LOGS / "bvlc_2016.log").read_bytes())
    _, said, _ = run("best", "train.log", "--snapshot", "-n", "1", cwd=tmp_path)
    assert "iteration 200, nearest snapshot rn_iter_200.caffemodel (iteration 200), no such file here" in said
    (tmp_path / "rn_iter_200.caffemodel").write_text("x")
    _, said, _ = run("best", "train.log", "--snapshot", "-n", "1", cwd=tmp_path)
    assert said.endswith("iteration 200, nearest snapshot rn_iter_200.caffemodel\n")
    _, said, _ = run("best", "train.log", "--json", "-n", "1", cwd=tmp_path)
    (record,) = json.loads(said)
    assert (record["iteration"], record["value"], record["snapshot"]) == (200, 0.55, "rn_iter_200.caffemodel")


def test_a_snapshot_that_is_there_comes_before_a_nearer_one(tmp_path: Path) -> None:
    text = (LOGS / "bvlc_2016.log").read_text()
    written = [line for line in text.splitlines() if "rn_iter_200.caffemodel" in line][0]
    early = written.replace("_200", "_100")
    (tmp_path / "train.log").write_text(text.replace(written, f"{early}\n{written}"))
    (tmp_path / "rn_iter_100.caffemodel").write_text("x")
    _, said, _ = run("best", "train.log", "--snapshot", "-n", "1", cwd=tmp_path)
    assert said.endswith("nearest snapshot rn_iter_100.caffemodel (100 iterations earlier)\n")


def test_a_misleading_order_is_said() -> None:
    assert "not the plain value" in run("best", "exponent_accuracy.log")[2]
    assert "not the plain value" in run("best", "wrapped_by_time.log")[2]
    assert run("best", "bvlc_1_0.log")[2] == ""


def test_final() -> None:
    status, said, _ = run("final", "bvlc_2016.log")
    assert status == 0 and said.count("\n") == 1 and "accuracy = 0.55" in said
    # Nine outputs push the accuracy out of the three lines.
    _, said, _ = run("final", "two_test_nets.log")
    assert [line.split("= ")[1] for line in said.splitlines()] == ["0.2", "0.3"]
    status, said, notes = run("final", "glog_file_2015.log", "--value")
    assert said == "0.01\n" and "at iteration 20" in notes


def test_final_of_a_folder(tmp_path: Path) -> None:
    for name in ("bvlc_1_0", "bvlc_2016"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.log").write_bytes((LOGS / f"{name}.log").read_bytes())
        (tmp_path / name / "net.caffemodel").write_bytes(b"\x00\x01solver.cpp:1] ")
    _, said, notes = run("final", ".", cwd=tmp_path)
    assert [line.split("= ")[1] for line in said.splitlines()] == ["0.6716", "0.55"]
    assert "caffemodel" not in notes


def test_table() -> None:
    status, said, _ = run("table", "bvlc_2016.log", "bvlc_1_0.log", "fatal.log")
    assert status == 0
    lines = said.splitlines()
    assert lines[0].split("|")[1:3] == [" Net           ", " Acc    "]
    assert "| bvlc_1_0.log  | 0.6716 | 0.6716 | 20      | +0.1216" in said
    assert "crashed at 10" in said and "fatal.log ended with: math_functions.cu:79] Check failed" in said
    rows = json.loads(run("table", "bvlc_2016.log", "diverged.log", "--json")[1])
    assert rows[0]["best"] == 0.55 and rows[1]["final"] is None  # nan
    assert run("table", "bvlc_2016.log", "--format", "csv")[1].startswith("net,path,output,best,")


def test_table_with_logs_that_tell_nothing() -> None:
    status, said, notes = run("table", "empty.log", "bvlc_1_0.log", "no_test.log", "caffe_test.log")
    assert status == 1 and [line.split("|")[1].strip() for line in said.splitlines()[2:5]] == [
        "bvlc_1_0.log",
        "no_test.log",
        "caffe_test.log",
    ]
    assert "empty.log is empty" in notes and "test_interval" in notes and "accuracy 0.85" in notes
    rows = json.loads(run("table", "googlenet.log", "two_test_nets.log", "--json")[1])
    assert [(row["output"], row["best"]) for row in rows] == [("loss3/top-1", 0.42), ("accuracy", 0.2)]
    status, said, notes = run("table", "bvlc_1_0.log", "ssd.log", "--output", "Accuracy")
    assert status == 1 and "0.6716" in said and "detection_eval" in notes


def test_table_csv_of_logs_of_one_name(tmp_path: Path) -> None:
    for name in ("base", "derived1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.log").write_bytes((LOGS / "bvlc_1_0.log").read_bytes())
    status, _, _ = run("table", "base/train.log", "derived1/train.log", "--csv", "out", cwd=tmp_path)
    assert status == 0 and (tmp_path / "out/base/train.log.test").is_file()
    assert (tmp_path / "out/derived1/train.log.train").is_file()


def test_watch() -> None:
    status, said, _ = run("watch", "six_runs.log", "--once", "--max-iter", "60")
    assert status == 0 and said.startswith("iteration 30/60  loss 1.7") and "(best 0.58 at 30)" in said
    status, _, notes = run("watch", "fatal.log")
    assert status == 1 and "crashed: math_functions.cu:79]" in notes


@pytest.mark.parametrize("command", ["best", "final", "table", "watch"])
@pytest.mark.parametrize("path", ["missing.log", "empty.log", "folder", "binary", "no_test.log"])
def test_bad_input_is_one_line(tmp_path: Path, command: str, path: str) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "binary").write_bytes(bytes(range(256)) * 100)
    for name in ("empty.log", "no_test.log"):
        (tmp_path / name).write_bytes((LOGS / name).read_bytes())
    words = [command, path, *(["--once"] if command == "watch" else [])]
    status, _, notes = run(*words, cwd=tmp_path)
    assert "Traceback" not in notes and len([x for x in notes.splitlines() if not x.startswith("==>")]) <= 1
    # A table has a row for a log without tests, and a log without tests can be watched.
    if not (command in ("table", "watch") and path == "no_test.log"):
        assert status == 1 and path in notes


def test_an_output_that_is_not_there() -> None:
    status, _, notes = run("best", "bvlc_1_0.log", "--output", "acuracy")
    assert status == 1 and "Accuracy, loss" in notes


def test_readable_logs_are_still_shown() -> None:
    status, said, notes = run("best", "missing.log", "bvlc_1_0.log")
    assert status == 1 and "0.6716" in said and "missing.log" in notes


def test_follower_reads_what_was_appended(tmp_path: Path) -> None:
    path, data = tmp_path / "train.log", (LOGS / "bvlc_2016.log").read_bytes()
    path.write_bytes(data[:700])
    follower = Follower(path)
    assert follower.poll() and not follower.poll()
    before = follower.log
    values = {name: before.table("displays")[name].copy() for name in before.table("displays").names}
    with path.open("ab") as stream:
        stream.write(data[700:])
    assert follower.poll() and len(follower.log.table("displays")) == 3
    # What was handed out before has not changed.
    assert all((before.table("displays")[name] == values[name]).all() for name in values)
    path.write_bytes((LOGS / "bvlc_1_0.log").read_bytes()[:500])  # started anew
    os.utime(path, (1, 1))
    assert follower.poll() and follower.log.size == 500
