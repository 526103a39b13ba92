"""The steps of a study: what each waits for, and an arm of several rounds."""

from __future__ import annotations

from pathlib import Path

import pytest
from study_files import write_study

pytest.importorskip("yaml", reason="PyYAML comes with caffe-split[study]")

from caffe_split.study.plan import stages_of, steps_of  # noqa: E402
from caffe_split.study.read import read_study  # noqa: E402
from caffe_split.study.run import work  # noqa: E402


def test_every_step_comes_after_what_it_needs(tmp_path: Path) -> None:
    arms = [{"name": "a", "kind": "residual", "rounds": [15, 20]}, {"name": "b-c", "kind": "skip"}, {"name": "b.c",
            "kind": "residual", "residual_activation": "relu"}]  # fmt: skip
    study = read_study(write_study(tmp_path, arms=arms, engine="torch", controls={"random": "kinds", "wider": "all"}))
    seen: set[str] = set()
    for step in steps_of(study):
        assert set(step.needs) <= seen
        seen.add(step.output)
    assert len(seen) == len(steps_of(study))
    # A residual with ReLU between cannot be folded.
    assert "done/s3.b-c.fold.json" in seen and "done/s3.b.c.fold.json" not in seen


def test_an_arm_in_rounds(tmp_path: Path) -> None:
    arms = [{"name": "a", "kind": "residual", "rounds": [15, 20]}]
    study = read_study(write_study(tmp_path, arms=arms, engine="torch"))
    stages = stages_of(study, study.arms[0])
    assert [(s.name, s.parent, s.at, s.until, s.window) for s in stages] == [
        ("a@1", "baseline", 10, 15, (0, 10)), ("a@2", "a@1", 15, 20, (10, 15)), ("a", "a@2", 20, None, (15, 20)),
    ]  # fmt: skip
    assert study.windows == [(0, 10), (10, 15), (15, 20)]
    # As long as the control, in parts.
    sizes = work(study)
    assert [sizes[f"s3.{name}.train"] for name in ("a@1", "a@2", "a", "continue")] == [5, 5, 10, 20]
