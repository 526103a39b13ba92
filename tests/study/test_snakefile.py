"""What the study's Snakefile sets for Snakemake, seen in a run of Snakemake."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from caffe_split.study.run import SNAKEFILE

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
