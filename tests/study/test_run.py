"""A study from start to end with the real Caffe; killed and begun again; what crashes; what cannot be written."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from caffe_split.backends.choose import get_backend
from caffe_split.derivation.after_split import ROLES, read_course
from caffe_split.study.locks import is_held
from caffe_split.study.read import read_study
from caffe_split.study.run import jobs_for
from caffe_split.trainlog.read import read_log
from tests.study.study_files import write_study
from tests.support import ROOT, caffe_split

pytestmark = [
    pytest.mark.caffe,
    pytest.mark.skipif(importlib.util.find_spec("snakemake") is None, reason="pip install 'snakemake>=8'"),
]
NEEDS_TORCH = pytest.mark.skipif(
    not get_backend("torch").is_there(), reason="PyTorch is not installed: ./tools/environment --torch"
)
COMMAND = [sys.executable, "-m", "caffe_split", "study"]


def table(out: Path) -> str:
    """The table but for the times."""
    return re.sub(r"\| [0-9]+ \|$", "|", (out / "results/table.md").read_text(), flags=re.MULTILINE)


def rows(out: Path) -> dict[str, dict[str, Any]]:
    return {row["run"]: row for row in json.loads((out / "results/table.json").read_text())["rows"]}


def kill_and_go_on(file: Path, out: Path, marks: int, group: bool, jobs: int = 2) -> None:
    """SIGKILL the study once it has so many marks, the main process or all of its group, and begin it again."""
    child = subprocess.Popen(
        [*COMMAND, str(file), "--jobs", str(jobs), "--out", str(out)],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    while len(list((out / "done").glob("*.json"))) < marks or not any(map(is_held, (out / "locks").glob("s*.*.lock"))):
        assert child.poll() is None, "it ended before it could be killed"
        time.sleep(0.02)
    (os.killpg if group else os.kill)(child.pid, signal.SIGKILL)
    child.wait()
    assert not (out / "results/table.json").exists()
    try:
        caffe_split("study", file, "--jobs", jobs, "--out", out, cwd=out.parent)
    finally:
        # Whatever of the first start should still be there.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)


def test_without_jobs_there_is_one_for_each_core(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.sched_getaffinity", lambda _: set(range(7)))
    study = read_study(write_study(tmp_path))
    assert [jobs_for(replace(study, threads=threads)) for threads in (1, 3, 8)] == [7, 2, 1]
    assert jobs_for(replace(study, device="cuda")) == 1


def test_killed_in_the_middle_it_ends_with_the_same_table(tmp_path: Path) -> None:
    file = write_study(tmp_path, seeds=[3])
    caffe_split("study", file, "--jobs", 2, "--out", "whole", "--publish", "docs", "--logs", cwd=tmp_path)
    kill_and_go_on(file, tmp_path / "killed", marks=2, group=False)
    assert table(tmp_path / "killed") == table(tmp_path / "whole")

    row = rows(tmp_path / "whole")["added"]
    assert row["n"] == 1 and row["failed"] == {} and row["folded"]["accuracy_difference"] == 0
    assert row["folded"]["parameters"] == row["parameters_before"] < row["parameters"]
    assert set(row["movements"]) == {"split1", "split2", "residual_pre", "residual_post", "reorder"}
    assert all(0 < value < 1 for value in row["movements"].values())
    course = read_course(tmp_path / "whole/s3/added")
    assert course is not None and course.iterations[0] == 0 and set(course.rms) == set(ROLES)

    manifest = json.loads((tmp_path / "whole/results/manifest.json").read_text())
    assert set(manifest["outputs"]) == {"table.md", "table.csv", "table.json", "points.png", "gains.png"}
    text = (tmp_path / "docs/tiny.md").read_text()
    assert "caffe-split study tiny.yaml --jobs 2 --out whole --publish docs --logs\n" in text
    assert "one pair or none: no interval" in text and f"{os.cpu_count()} cores" in text

    kept = tmp_path / "docs/tiny"
    assert {path.name for path in kept.iterdir()} == {"baseline", "continue", "added"}
    whole, short = tmp_path / "whole/s3/added", kept / "added"
    net = (whole / "train_val.prototxt").read_text()
    assert str(tmp_path) in net and (short / "train_val.prototxt").read_text() == net.replace(f"{tmp_path}/", "")
    best, same = read_log(whole / "train.log").best(), read_log(short / "train.log").best()
    assert best is not None and same is not None and (same.iteration, same.value) == (best.iteration, best.value)

    # Done, it has nothing left to do; a conclusion that was written stays.
    (tmp_path / "docs/tiny.md").write_text(text.replace("(to be written by a person)", "One seed tells nothing."))
    caffe_split("study", file, "--out", "whole", "--publish", "docs", cwd=tmp_path)
    assert "One seed tells nothing." in (tmp_path / "docs/tiny.md").read_text()
    csv = (tmp_path / "whole/results/table.csv").read_text().splitlines()
    assert csv[0] == "run,seed,final,best,parameters,macs" and csv[2].endswith(f",{row['parameters']},{row['macs']}")
    dry = caffe_split("study", file, "--out", "whole", "--dry-run", cwd=tmp_path).stdout
    assert " 0 iterations to do: about 0:00:00" in dry and "as the runs in" in dry

    # Other files in the place of those of the runs are refused.
    solver = tmp_path / "solver.prototxt"
    solver.write_text(solver.read_text().replace("base_lr: 0.01", "base_lr: 0.02"))
    said = caffe_split("study", file, "--out", "whole", cwd=tmp_path, status=1).stderr
    assert "solver.prototxt: it has changed since" in said and said.count("\n") == 1


@pytest.mark.slow
def test_rounds_begin_from_the_split_snapshot_of_the_one_before(tmp_path: Path) -> None:
    arms = [{"name": "a", "kind": "skip"}, {"name": "a2", "kind": "skip", "after": "a"}]
    file = write_study(tmp_path, arms=arms, schedule="restart", scale="1/2", split=16, window="8:16", interval=2)
    solver = tmp_path / "solver.prototxt"
    solver.write_text(solver.read_text().replace("max_iter: 30", "max_iter: 40"))
    caffe_split("study", file, "--seeds", 1, "--jobs", 2, "--out", "out", "--publish", "docs", cwd=tmp_path)
    found = rows(tmp_path / "out")
    assert list(found) == ["baseline", "continue", "continue2", "a", "a2"]
    assert [found[name]["control"] for name in found] == ["", "", "", "continue", "continue2"]
    assert found["a"]["parameters"] < found["a2"]["parameters"]
    assert found["a2"]["folded"]["parameters"] == found["baseline"]["parameters"]
    assert all(list((tmp_path / f"out/s1/{start}").glob("*_iter_8.caffemodel")) for start in ("a", "continue"))
    layers = json.loads((tmp_path / "out/s1/a2/manifest.json").read_text())["plan"]["layers"]
    assert {layer["name"] for layer in layers}.isdisjoint(
        layer["name"] for layer in json.loads((tmp_path / "out/s1/a/manifest.json").read_text())["plan"]["layers"]
    )
    log = (tmp_path / "out/s1/continue2/train.log").read_text()
    assert "Iteration 0, lr" in log and re.search(r"continue/\S+_iter_8.caffemodel", log)
    # The scale stands in the file.
    assert "--out out --seeds 1 --publish docs" in (tmp_path / "docs/tiny.md").read_text()


def test_all_see_the_same_data_and_rates_and_a_crash_stops_nobody(tmp_path: Path) -> None:
    """An arm without noise, and the control: the same losses at first, the same rates throughout. Another crashes."""
    arms = [
        {"name": "added", "kind": "extension", "noise": 0.0},
        {"name": "bad", "kind": "skip", "partition": "list:20"},
    ]
    controls = {"random": "none", "wider": "none", "rates": [2]}
    file = write_study(tmp_path, seeds=[3], arms=arms, controls=controls)
    solver = tmp_path / "solver.prototxt"
    text = solver.read_text().replace("display: 10", "display: 1").replace("stepvalue: 1200", "stepvalue: 15")
    solver.write_text(text)
    result = caffe_split("study", file, "--jobs", 2, "--out", "out", cwd=tmp_path, status=1)
    logs = [(tmp_path / "out/s3" / name / "train.log").read_text() for name in ("continue", "added", "rate-2")]
    losses = [[float(x) for x in re.findall(r"Iteration \d+ .*loss = ([0-9.e+-]+)", log)] for log in logs]
    assert len(losses[0]) == len(losses[1]) == len(losses[2]) == 20
    # Another rate tells from the second iteration on.
    assert losses[2][0] == losses[0][0] and losses[2][1] != losses[0][1]
    assert losses[0][0] == pytest.approx(losses[1][0], rel=1e-4)
    # Another batch's loss would be another.
    assert abs(losses[0][0] - losses[0][1]) > 1e-3 * losses[0][0]
    rates = [re.findall(r"Iteration (\d+), lr = ([0-9.e+-]+)", log) for log in logs]
    assert rates[0] == rates[1] and {rate for _, rate in rates[0]} == {"0.01", "0.001"}
    assert [(at, float(rate)) for at, rate in rates[2]] == [(at, 2 * float(rate)) for at, rate in rates[0]]

    found = rows(tmp_path / "out")
    assert found["added"]["n"] == found["rate-2"]["n"] == 1 and found["bad"]["n"] == 0
    why = "after s3.bad.derive failed: layer 'conv1' (line "
    assert found["bad"]["failed"]["3"].startswith(why) and f"- bad, seed 3: {why}" in result.stdout
    # Begun again, what failed is tried again.
    before = (tmp_path / "out/done/s3.bad.derive.json").stat().st_mtime_ns
    caffe_split("study", file, "--out", "out", cwd=tmp_path, status=1)
    assert (tmp_path / "out/done/s3.bad.derive.json").stat().st_mtime_ns > before


@pytest.mark.parametrize("size", [500, pytest.param(100_000, marks=pytest.mark.slow)], ids=["the plan", "the weights"])
def test_a_full_disk(tmp_path: Path, size: int) -> None:
    file = write_study(tmp_path, seeds=[3])
    caffe_split("data", "digits", "--out", "data", cwd=tmp_path)
    result = subprocess.run(
        [*COMMAND, str(file), "--out", "out"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (size, size)),
    )
    assert result.returncode == 1 and "Traceback" not in result.stderr
    if size == 500:
        assert result.stderr == f"caffe-split: {tmp_path}/out/plan.json: cannot write it: File too large\n"
    else:
        both = "- 2 runs (continue, seed 3; added, seed 3), for the first: after s3.baseline.train failed: "
        assert both + "the training was ended by SIG" in result.stdout
        # Its own last words, and no stack frame.
        assert re.search(r"ended by SIG\w+: .*\w+\.(c|h)pp:\d+\] (Check failed|Snapshotting to)", result.stdout)


@pytest.mark.slow
def test_a_study_in_pieces_ends_whole(tmp_path: Path) -> None:
    """What was run first stays; a later arm finds the TPM of its rounds, which the first piece did not need."""
    arms = [{"name": "a", "kind": "skip"}, {"name": "b", "kind": "skip", "num_splits": 1, "rounds": [20]}]
    changes = {"arms": arms, "controls": {"random": ["a"], "wider": "none"}, "compare": {"a": "b"}}
    file = write_study(tmp_path, seeds=[3], engine="torch", interval=5, **changes)
    first = caffe_split("study", file, "--only", "a", "--jobs", 2, "--out", "out", cwd=tmp_path)
    assert list(rows(tmp_path / "out")) == ["continue", "a"] and "| a | b |" not in first.stdout
    done = {mark.name: mark.stat().st_mtime_ns for mark in (tmp_path / "out/done").iterdir()}
    assert set(done) == {"data.json", *(f"s3.{run}.json" for run in ("baseline.train", "continue.train"))} | {
        f"s3.a.{verb}.json" for verb in ("derive", "train", "fold")
    }
    whole = caffe_split("study", file, "--jobs", 2, "--out", "out", cwd=tmp_path)
    assert list(rows(tmp_path / "out")) == ["continue", "a", "b", "random-a"] and "| a | b | 1 |" in whole.stdout
    assert all((tmp_path / "out/done" / name).stat().st_mtime_ns == at for name, at in done.items())


@pytest.mark.slow
def test_rounds_of_splits_fold_back(tmp_path: Path) -> None:
    arms = [{"name": "added", "kind": "residual", "rounds": [15, 20]}]
    file = write_study(
        tmp_path, seeds=[3], arms=arms, controls={"random": "none", "wider": "first"}, interval=1, engine="torch"
    )
    caffe_split("study", file, "--jobs", 2, "--out", "out", cwd=tmp_path)
    row = rows(tmp_path / "out")["added"]
    assert row["folded"]["accuracy_difference"] == 0 and row["folded"]["parameters"] == row["parameters_before"]
    assert {key.rpartition(", ")[2] for key in row["movements"]} == {"round 1", "round 2", "round 3"}
    assert "| added, round 3 |" in (tmp_path / "out/results/table.md").read_text()
    assert rows(tmp_path / "out")["wider-added"]["parameters"] >= row["parameters"]


@pytest.mark.slow
@pytest.mark.parametrize("group", [False, True], ids=["main", "group"])
@pytest.mark.parametrize("engine", ["caffe", pytest.param("torch", marks=NEEDS_TORCH)])
def test_two_seeds_with_controls_killed_often(tmp_path: Path, engine: str, group: bool) -> None:
    arms = [{"name": "added", "kind": "residual"}, {"kind": "skip", "branch_norm": True, "calibrate": 2}]
    file = write_study(tmp_path, arms=arms, controls={}, engine=engine)
    caffe_split("study", file, "--jobs", 2, "--out", "whole", cwd=tmp_path)
    for marks in (1, 5, 12):
        out = tmp_path / f"killed{marks}"
        kill_and_go_on(file, out, marks, group)
        assert table(out) == table(tmp_path / "whole")
        assert (out / "results/table.csv").read_bytes() == (tmp_path / "whole/results/table.csv").read_bytes()


@pytest.mark.slow
def test_the_digits_study_killed_is_the_digits_study(tmp_path: Path) -> None:
    file = ROOT / "studies/digits.yaml"
    for out in ("whole", "killed"):
        if out == "killed":
            kill_and_go_on(file, tmp_path / out, 30, group=True)
        else:
            command = [*COMMAND, str(file), "--jobs", "2", "--out", out]
            subprocess.run(command, cwd=tmp_path, check=True, capture_output=True)
    assert table(tmp_path / "killed") == table(tmp_path / "whole")


SUBMIT = """
import os, subprocess, sys
folder, script = sys.argv[1:]
child = subprocess.Popen(["sh", script], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                         start_new_session=True)
with open(os.path.join(folder, "submitted"), "a") as stream:
    stream.write(f"{child.pid}\\n")
print(child.pid)
"""


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("snakemake_executor_plugin_cluster_generic") is None,
    reason="pip install snakemake-executor-plugin-cluster-generic",
)
def test_the_same_study_through_a_cluster_executor(tmp_path: Path) -> None:
    """Two local nodes: a submit command that starts jobs and returns at once, as a cluster's does."""
    submit = tmp_path / "submit.py"
    submit.write_text(SUBMIT)
    file = write_study(tmp_path, seeds=[3])
    caffe_split("study", file, "--jobs", 2, "--out", "here", cwd=tmp_path)
    words = ["--executor", "cluster-generic", "--cluster-generic-submit-cmd", f"{sys.executable} {submit} {tmp_path}"]
    words += ["--seconds-between-status-checks", "1", "--latency-wait", "30"]
    caffe_split("study", file, "--jobs", 2, "--out", "there", "--", *words, cwd=tmp_path)
    assert len((tmp_path / "submitted").read_text().split()) == 7  # every step of the study, and the table
    assert table(tmp_path / "there") == table(tmp_path / "here")
