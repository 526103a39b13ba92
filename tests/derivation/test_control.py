"""The control of equal training: a derivation that splits nothing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs


def test_the_control_is_the_same_training_with_nothing_split(digits: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(digits)
    plan = cs.derive(cs.open_training("digits/solver.prototxt"), 50, layers=None, out="control")
    plan.write()
    assert plan.command[3:] == ("--iter", "50", "--control", "--out", "control")
    assert Path("control/train_val.prototxt").read_bytes() == Path("digits/train_val.prototxt").read_bytes()
    before, after = cs.read_weights("digits/digits_iter_50.caffemodel"), cs.read_weights("control/init.caffemodel")
    learnt = [name for name in before if before.types[name] != "TPM" and len(before[name])]
    assert sorted(name for name in after if len(after[name])) == sorted(learnt)
    assert all(np.array_equal(a, b) for name in learnt for a, b in zip(after[name], before[name]))
    solver = cs.read_solver("control/solver.prototxt")
    assert (solver.get("net"), solver.get("weights")) == ("control/train_val.prototxt", "control/init.caffemodel")
    assert "no split: the control" in str(plan)


def test_the_control_of_a_continued_schedule_goes_on_from_the_parents_state(
    digits: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(digits)
    options = cs.DeriveOptions(schedule="continue")
    cs.derive(cs.open_training("digits/solver.prototxt"), 50, layers=None, options=options, out="control").write()
    assert cs.train("control/solver.prototxt", snapshot="control/init.solverstate").status == 0
    log = cs.read_log("control/train.log")
    assert log.runs[-1].first_iteration == 50
    assert log.runs[-1].state == "done"
