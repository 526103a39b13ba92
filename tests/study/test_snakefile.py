"""What the study's Snakefile sets for Snakemake, seen in a run of Snakemake."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.study.run import SNAKEFILE, _check_begun, snakemake

pytest.importorskip("snakemake", reason="studies need Snakemake, and that Python 3.11")

PROBE = f"""
include: "{SNAKEFILE}"

rule probe:
    output: "done"
    shell: "touch {{output}}"

onsuccess:
    limit = workflow.scheduler.job_rate_limiter
    print("limit:", limit and (limit.max_jobs, limit.timespan))
"""


@pytest.mark.parametrize(
    ("given", "limit"),
    [([], "None"), (["--max-jobs-per-timespan=7/60s"], "(7, 60.0)"), (["--profile", "mine"], "(5, 60.0)")],
)
def test_looks_for_work_begin_no_others_unless_jobs_are_limited(given: list[str], limit: str, tmp_path: Path) -> None:
    (tmp_path / "plan.json").write_text(json.dumps({"steps": []}))
    (tmp_path / "probe").write_text(PROBE)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/config.yaml").write_text("max-jobs-per-timespan: 5/60s\n")
    command = [sys.executable, "-m", "snakemake", "--snakefile", "probe", "--cores", "1", *given, "done"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert f"limit: {limit}\n" in done.stdout, done.stderr


def test_a_mark_that_is_there_counts_however_it_came_there(tmp_path: Path) -> None:
    """Newer than what follows from it, as in a copied folder; of a step that ended after Snakemake was killed."""
    needs: dict[str, list[str]] = {"done/a.json": [], "done/b.json": ["done/a.json"], "done/c.json": ["done/b.json"]}
    steps = [{"title": mark[5:6], "needs": before, "output": mark, "threads": 1} for mark, before in needs.items()]
    (tmp_path / "plan.json").write_text(json.dumps({"steps": steps}))
    (tmp_path / "done").mkdir()
    for mark, age in (("done/a.json", 10), ("done/b.json", 20)):
        (tmp_path / mark).write_text("{}")
        os.utime(tmp_path / mark, (1e9 - age, 1e9 - age))
    unseen = tmp_path / ".snakemake/incomplete" / base64.urlsafe_b64encode(b"done/a.json").decode()
    unseen.parent.mkdir(parents=True)
    unseen.write_text('{"external_jobid": null}')
    command = snakemake(tmp_path, 1, ["--dry-run"])
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    planned = [line.split()[1] for line in (done.stdout + done.stderr).splitlines() if line.startswith("rule ")]
    assert planned == ["c_2:", "table:", "all:"]


@pytest.mark.parametrize("extra", [[], ["--quiet"], ["--quiet", "rules"], ["--quiet", "all"], ["--nosuch", "--quiet"]])
def test_a_step_that_died_is_none_that_did_not_begin(extra: list[str], tmp_path: Path) -> None:
    """The step ends without a mark, as one that is killed does: its plan is none of a study."""
    step = {"title": "a", "needs": [], "output": "done/a.json", "threads": 1}
    (tmp_path / "plan.json").write_text(json.dumps({"steps": [step]}))
    log = tmp_path / "snakemake.log"
    with log.open("wb") as stream:
        done = subprocess.run(snakemake(tmp_path, 1, extra), stdout=stream, stderr=stream, check=False)
    assert done.returncode
    if "--nosuch" in extra:
        with pytest.raises(CaffeSplitError, match=r"arguments: --nosuch \(from .*; it gets the options behind --$"):
            _check_begun(log, 0, extra)
    else:
        assert b"caffe_split/study/__main__.py" in log.read_bytes()
        _check_begun(log, 0, extra)


def test_where_no_options_were_given_none_is_blamed(tmp_path: Path) -> None:
    log = tmp_path / "snakemake.log"
    log.write_text("before\nModuleNotFoundError: no pulp\n")
    with pytest.raises(CaffeSplitError, match=r"Snakemake ran no step: ModuleNotFoundError: no pulp \(from [^;]*\)$"):
        _check_begun(log, 7, [])
