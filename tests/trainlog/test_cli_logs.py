"""The log commands as a user meets them."""

from __future__ import annotations

import contextlib
import gzip
import json
import os
import pty
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from caffe_split.trainlog import pipeline
from caffe_split.trainlog.follow import Follower
from tests.support import caffe_split, start_process

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
def test_value_prints_the_best_values_the_best_last(words: list[str], lines: list[str]) -> None:
    status, said, _ = run("best", *words)
    assert status == 0 and said.split() == lines


def test_best_names_the_nearest_snapshot_and_whether_it_exists(tmp_path: Path) -> None:
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
    written = next(line for line in text.splitlines() if "rn_iter_200.caffemodel" in line)
    early = written.replace("_200", "_100")
    (tmp_path / "train.log").write_text(text.replace(written, f"{early}\n{written}"))
    (tmp_path / "rn_iter_100.caffemodel").write_text("x")
    _, said, _ = run("best", "train.log", "--snapshot", "-n", "1", cwd=tmp_path)
    assert said.endswith("nearest snapshot rn_iter_100.caffemodel (100 iterations earlier)\n")


def test_a_misleading_order_is_said() -> None:
    assert "not the plain value" in run("best", "exponent_accuracy.log")[2]
    assert "not the plain value" in run("best", "wrapped_by_time.log")[2]
    assert run("best", "bvlc_1_0.log")[2] == ""


def test_final_prints_the_accuracies_before_the_end() -> None:
    status, said, _ = run("final", "bvlc_2016.log")
    assert status == 0 and said.count("\n") == 1 and "accuracy = 0.55" in said
    # Nine outputs push the accuracy out of the three lines.
    _, said, _ = run("final", "two_test_nets.log")
    assert [line.split("= ")[1] for line in said.splitlines()] == ["0.2", "0.3"]
    status, said, notes = run("final", "glog_file_2015.log", "--value")
    assert said == "0.01\n" and "at iteration 20" in notes


def test_final_of_a_folder_is_that_of_each_log_in_it(tmp_path: Path) -> None:
    for name in ("bvlc_1_0", "bvlc_2016"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.log").write_bytes((LOGS / f"{name}.log").read_bytes())
        (tmp_path / name / "net.caffemodel").write_bytes(b"\x00\x01solver.cpp:1] ")
    _, said, notes = run("final", ".", cwd=tmp_path)
    assert [line.split("= ")[1] for line in said.splitlines()] == ["0.6716", "0.55"]
    assert "caffemodel" not in notes


def test_the_table_compares_with_the_first_log() -> None:
    status, said, _ = run("table", "bvlc_2016.log", "bvlc_1_0.log", "fatal.log")
    assert status == 0
    lines = said.splitlines()
    assert lines[0].split("|")[1:3] == [" Net           ", " Acc    "]
    assert "| bvlc_1_0.log  | 0.6716 | 0.6716 | 20      | +0.1216" in said
    assert "crashed at 10" in said and "fatal.log ended with: math_functions.cu:79] Check failed" in said
    rows = json.loads(run("table", "bvlc_2016.log", "diverged.log", "--json")[1])
    assert rows[0]["best"] == 0.55 and rows[1]["final"] is None  # nan
    assert run("table", "bvlc_2016.log", "--format", "csv")[1].startswith("net,path,output,best,")


def test_the_table_has_the_other_logs_where_one_says_nothing() -> None:
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


def test_logs_of_one_name_are_exported_to_folders_of_their_own(tmp_path: Path) -> None:
    for name in ("base", "derived1"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "train.log").write_bytes((LOGS / "bvlc_1_0.log").read_bytes())
    status, _, _ = run("table", "base/train.log", "derived1/train.log", "--csv", "out", cwd=tmp_path)
    assert status == 0 and (tmp_path / "out/base/train.log.test").is_file()
    assert (tmp_path / "out/derived1/train.log.train").is_file()


def test_watch_once_prints_one_line_and_a_crash_is_an_error() -> None:
    status, said, _ = run("watch", "six_runs.log", "--once", "--max-iter", "60")
    assert status == 0 and said.startswith("iteration 30/60  loss 1.7") and "(best 0.58 at 30)" in said
    status, said, _ = run("watch", "six_runs.log", "--once", "--max-iter", "1")
    assert status == 0 and "-" not in said  # past its end no time is left
    status, _, notes = run("watch", "fatal.log")
    assert status == 1 and "crashed: math_functions.cu:79]" in notes


def start_watch(folder: Path, *words: str, **options: Any) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "caffe_split", "watch", "train.log", "--every", "0.1", *words]
    return start_process(command, cwd=folder, **{"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, **options})


def ended(child: subprocess.Popen[bytes]) -> tuple[int, str]:
    """Its status and what it said on stderr, within a minute."""
    try:
        said = child.communicate(timeout=60)[1]
    finally:
        child.kill()
    return child.returncode, said.decode()


@pytest.mark.parametrize(
    ("name", "status", "line", "end"),
    [
        ("bvlc_2016", 0, "iteration 200", "done"),
        ("killed_by_sigterm", 1, "iteration ", "crashed: *** SIGTERM"),
        ("fatal", 1, "iteration 10", "crashed: math_functions.cu:79] Check failed"),
        ("glog_0_6", 0, "iteration ", "stopped"),
    ],
)
def test_watch_ends_at_once_where_the_training_has(tmp_path: Path, name: str, status: int, line: str, end: str) -> None:
    (tmp_path / "train.log").write_bytes((LOGS / f"{name}.log").read_bytes())
    code, said = ended(start_watch(tmp_path))
    shown, last = said.splitlines()
    assert code == status and shown.startswith(line) and last.startswith(end)


def test_watch_ends_at_a_log_that_was_cut_off_long_ago(tmp_path: Path) -> None:
    data = (LOGS / "bvlc_2016.log").read_bytes()
    (tmp_path / "train.log").write_bytes(data[: data.index(b"Iteration 200")])
    os.utime(tmp_path / "train.log", (1e9, 1e9))
    code, said = ended(start_watch(tmp_path))
    assert code == 0 and said.splitlines()[-1] == "cut off"


def test_watch_of_a_missing_log_is_an_error(tmp_path: Path) -> None:
    code, said = ended(start_watch(tmp_path))
    assert code == 1 and said == "caffe-split: cannot read the log train.log: No such file or directory\n"


def test_watch_follows_to_the_end(tmp_path: Path) -> None:
    data = (LOGS / "bvlc_2016.log").read_bytes()
    # The training is over with the solver's "Optimization Done."; caffe.cpp says it once more.
    over = data.index(b"\n", data.index(b"Optimization Done")) + 1
    lines = data[:over].splitlines(keepends=True)
    path = tmp_path / "train.log"
    path.write_bytes(b"")  # Caffe has been started and has said nothing yet
    child = start_watch(tmp_path)
    time.sleep(3)  # so that it has surely seen the empty log
    for count, line in enumerate(lines):
        time.sleep(0.3 if b"Testing net" in line else 0.02)
        assert child.poll() is None, "it ended before the training did"
        with path.open("ab") as stream:
            stream.write(b"max_iter: 200\n" * (count == 0) + line + (data[over:] if line is lines[-1] else b""))
    code, said = ended(child)
    shown = [line for line in said.splitlines() if line.startswith("iteration")]
    assert code == 0 and said.splitlines()[-1] == "done"
    last = "iteration 200/200  loss 1.1  lr 0.01  accuracy 0.55 (best 0.55 at 200)"
    assert len(shown) >= 2 and shown[-1].startswith(last)


def test_watch_ends_with_an_error_if_the_log_goes_away(tmp_path: Path) -> None:
    data = (LOGS / "bvlc_2016.log").read_bytes()
    path = tmp_path / "train.log"
    path.write_bytes(data[: data.index(b"Iteration 200")])
    child = start_watch(tmp_path)
    assert child.stderr is not None and child.stderr.readline().startswith(b"iteration 100")
    path.unlink()
    code, said = ended(child)
    assert code == 1 and said == "caffe-split: cannot read the log train.log: No such file or directory\n"


def test_watch_is_left_by_an_interrupt(tmp_path: Path) -> None:
    data = (LOGS / "bvlc_2016.log").read_bytes()
    (tmp_path / "train.log").write_bytes(data[: data.index(b"Iteration 200")])
    child = start_watch(tmp_path)
    assert child.stderr is not None and child.stderr.readline()
    child.send_signal(signal.SIGINT)
    code, said = ended(child)
    assert code == 130 and said.strip() == "caffe-split: interrupted"


def test_watch_shows_a_bar_on_a_terminal(tmp_path: Path) -> None:
    (tmp_path / "train.log").write_bytes((LOGS / "bvlc_2016.log").read_bytes())
    ours, theirs = pty.openpty()
    environment = {**os.environ, "TERM": "xterm", "COLUMNS": "150"}
    child = start_watch(tmp_path, "--max-iter", "400", stderr=theirs, env=environment)
    os.close(theirs)
    said = b""
    with contextlib.suppress(OSError):  # the end of a terminal is an error
        while block := os.read(ours, 1 << 16):
            said += block
    os.close(ours)
    assert child.wait(60) == 0
    shown = re.sub(rb"\x1b\[[0-9;?]*[a-zA-Z]", b"", said).decode()
    assert "200/400" in shown and " 50%" in shown and "loss 1.1  accuracy 0.55, best 0.55" in shown


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


def test_an_unknown_output_is_answered_with_the_known_ones() -> None:
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


def test_follower_sees_that_a_log_was_written_anew(tmp_path: Path) -> None:
    path, data = tmp_path / "train.log", (LOGS / "bvlc_2016.log").read_bytes()
    other = (LOGS / "googlenet.log").read_bytes()
    assert len(other) > len(data)
    for first in (data[:1], data[:100], data):
        path.write_bytes(first)
        follower = Follower(path)
        follower.poll()
        path.write_bytes(other)  # the same file, and longer now
        assert follower.poll() and follower.log.size == len(other)
        assert repr(follower.log.runs) == repr(fresh(path).log.runs)
        assert not follower.poll()


def fresh(path: Path) -> Follower:
    follower = Follower(path)
    follower.poll()
    return follower


def test_a_folder_without_a_log_is_said(tmp_path: Path) -> None:
    (tmp_path / "base").mkdir()
    (tmp_path / "base/train.log").write_bytes((LOGS / "bvlc_1_0.log").read_bytes())
    (tmp_path / "derived1").mkdir()
    (tmp_path / "derived1/notes").write_text("soon")
    for words in (["table"], ["best", "--value", "-n", "1"], ["final"]):
        status, _, notes = run(*words, "base", "derived1", cwd=tmp_path)
        assert status == 0 and "note: derived1: no training log in it\n" in notes
    status, _, notes = run("best", "derived1", cwd=tmp_path)
    assert status == 1 and "note" not in notes


@pytest.mark.parametrize("command", ["best", "final", "table", "watch", "report"])
def test_an_empty_path_is_not_the_current_folder(tmp_path: Path, command: str) -> None:
    done = caffe_split(command, "", cwd=tmp_path, status=2)
    assert "an empty value as an argument; give a value, or leave it out." in done.stderr and not done.stdout


def test_a_note_of_a_log_that_is_read_in_two_ways_is_said_once(tmp_path: Path) -> None:
    packed = gzip.compress((LOGS / "bvlc_2016.log").read_bytes())
    (tmp_path / "cut.log.gz").write_bytes(packed[: len(packed) // 3])
    for command in ("best", "final"):
        _, _, notes = run(command, "cut.log.gz", cwd=tmp_path)
        assert notes.count("end too early") == 1
