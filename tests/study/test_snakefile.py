"""What the study's Snakefile sets for Snakemake, seen in a run of Snakemake."""

from __future__ import annotations

import base64
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_split.study.run import SNAKEFILE, snakemake

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
