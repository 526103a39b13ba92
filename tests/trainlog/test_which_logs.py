"""Which files are logs of trainings, and what is said of those that are not."""

from __future__ import annotations

import json
import re
from pathlib import Path

from tests.support import caffe_split

LOGS = Path(__file__).parent / "logs"


def test_of_a_folder_the_logs_of_trainings_count_each_once_and_its_own_first(tmp_path: Path) -> None:
    """Tests and times alone are no runs; what cannot be read is named."""
    log = (LOGS / "bvlc_2016.log").read_text()
    (tmp_path / "base/derived/again").mkdir(parents=True)
    trainings = ["base/train.log", "base/derived/train.log", "base/derived/again/train.log"]
    for path in trainings:
        (tmp_path / path).write_text(log)
    first, rest = log.split("\n", 1)
    only_tests = re.sub("Iteration [1-9][0-9]*", "Iteration 0", f"{first}\nmax_iter: 0\n{rest}")
    (tmp_path / "base/derived/test_net.log").write_text(only_tests)
    stamp = "I0305 14:00:00.000000 1 "
    net = f"{stamp}net.cpp:1] Setting up conv\n" * 3000  # more than is looked at to see whether it is a log
    batches = "".join(f"{stamp}caffe.cpp:313] Batch {number}, accuracy = 0.5\n" for number in range(3))
    (tmp_path / "base/test.log").write_text(net + batches)
    (tmp_path / "base/time.log").write_bytes((LOGS / "caffe_time.log").read_bytes())
    for paths in (("base",), ("base", "base/derived"), ("base/train.log", "./base/train.log", "base")):
        table = caffe_split("table", *paths, "--json", cwd=tmp_path).stdout
        assert [row["path"] for row in json.loads(table)] == trainings
    # A training after a test in one file is a training.
    (tmp_path / "base/test.log").write_text(net + batches + net + log)
    table = caffe_split("table", "base", "--json", cwd=tmp_path).stdout
    assert "base/test.log" in [row["path"] for row in json.loads(table)]
    (tmp_path / "base/Log.txt.zst").write_bytes(b"\x28\xb5\x2f\xfd\x00\x00")
    refused = caffe_split("table", "base", cwd=tmp_path, status=1)
    assert "base/Log.txt.zst" in refused.stderr and "derived" in refused.stdout


def test_what_tells_of_a_training_is_no_log_of_it(tmp_path: Path) -> None:
    """Exports, reports and notes may stand in the folder of the log."""
    (tmp_path / "run").mkdir()
    (tmp_path / "run/train.log").write_bytes((LOGS / "bvlc_2016.log").read_bytes())
    before = caffe_split("table", "run", cwd=tmp_path).stdout
    for option in ("--series", "--csv", "--tensorboard"):
        caffe_split("table", "run", option, "run", cwd=tmp_path)
    caffe_split("report", "run", "--out", "run/report.html", cwd=tmp_path)
    (tmp_path / "run/NOTES.MD").write_text("At Iteration 100 the loss falls.\n")
    assert (tmp_path / "run/train.log.json").is_file()
    assert caffe_split("table", "run", cwd=tmp_path).stdout == before


def test_a_log_of_tests_or_times_is_said_to_be_no_training(tmp_path: Path) -> None:
    """Also where it has not come to its end: it neither runs nor is it cut off."""
    lines = (LOGS / "caffe_test.log").read_text().splitlines(keepends=True)
    (tmp_path / "test.log").write_text("".join(lines[:4]))
    (tmp_path / "time.log").write_bytes((LOGS / "caffe_time.log").read_bytes())
    for name, what in (("test.log", "it did not come to its end"), ("time.log", "conv1 forward ms 3.25")):
        expected = f"{name} is no training but a log of `caffe test` or `caffe time`: {what}"
        table = caffe_split("table", name, cwd=tmp_path, status=1)
        assert expected in table.stderr and table.stdout.splitlines()[2].endswith("| no training |")
        for words in (["watch", name], ["watch", name, "--once"], ["best", name], ["final", name], ["report", name]):
            assert expected in caffe_split(*words, cwd=tmp_path, status=1).stderr
    (tmp_path / "both.log").write_text((LOGS / "diverged.log").read_text() + "".join(lines[:4]))
    one, two = json.loads(caffe_split("table", LOGS / "diverged.log", "both.log", "--json", cwd=tmp_path).stdout)
    assert one["state"] == two["state"] == "inf from iteration 5, done"
