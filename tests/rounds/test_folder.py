"""A loop goes on in its folder: with more rounds, after a failure, and with the baseline that it was begun with."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import caffe_split
from caffe_split.errors import CaffeSplitError
from caffe_split.rounds import loop as looping
from caffe_split.rounds.plan import LoopStep
from caffe_split.rounds.steps import Steps
from tests.rounds.loop_words import SHORT, SOLVER, Words
from tests.support import Trained


def test_more_rounds_go_on_from_those_that_are_done(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    shutil.copytree("whole", "more")
    for path in Path("more").rglob("*.prototxt"):
        path.write_text(path.read_text().replace("whole/", "more/"))
    loop = looping.plan_loop(SOLVER, options=replace(SHORT, rounds=3), out="more")
    assert [step.title for step in loop.left()] == [
        "MultiSplits3.derive",
        "MultiSplits3.train",
        "MultiSplits3.fold",
        "control3.derive",
        "control3.train",
    ]


def test_fewer_rounds_than_are_finished_replace_no_outcome(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    with pytest.raises(CaffeSplitError, match=r"whole has 2 finished rounds.* give --rounds 2 or more"):
        looping.plan_loop(SOLVER, options=replace(SHORT, rounds=1), out="whole")


@pytest.fixture
def out(folder: Path, ended: caffe_split.MultiSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the loop that has ended, to be changed."""
    monkeypatch.chdir(folder)
    return shutil.copytree("whole", tmp_path / "whole")


def test_a_round_that_fails_leaves_the_outcome_of_those_before_it(
    out: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    for path in (*out.glob("done/MultiSplits2.*"), *out.glob("done/control2.*")):
        path.unlink()
    (out / "table.md").unlink()

    def fails(self: Steps, step: LoopStep) -> dict[str, object]:
        raise CaffeSplitError("too few layers.")

    monkeypatch.setattr(Steps, "run", fails)
    found = caffe_split.multisplit(SOLVER, options=SHORT, out=out)
    assert found.rounds == ended.rounds[:1]
    assert found.stopped == "MultiSplits2.derive failed: too few layers"
    assert found.sentence().endswith(" Stopped early: MultiSplits2.derive failed: too few layers.")
    assert found.sentence() in (out / "table.md").read_text()
    (out / "done/MultiSplits.fold.json").unlink()
    with pytest.raises(CaffeSplitError, match=r"^too few layers\.$"):
        caffe_split.multisplit(SOLVER, options=SHORT, out=out)


def test_a_loop_keeps_the_baseline_that_it_was_begun_with(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whatever becomes of the snapshots of the user's own training."""
    shutil.copytree(trained.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    options = replace(SHORT, iteration=90)
    adopting = looping.plan_loop(trained.solver, options=options, out="adopting")
    adopting.folder.begin(adopting._asked)  # noqa: SLF001 - as a loop that was killed at once leaves it
    moved = [path.rename(tmp_path / path.name) for path in Path("digits").glob("*_iter_*")]
    with pytest.raises(CaffeSplitError, match=r"begun with the training at .*; now .* no snapshot of 90"):
        looping.plan_loop(trained.solver, options=options, out="adopting")
    own = looping.plan_loop(trained.solver, options=options, out="own")
    assert "there is no snapshot of 90" in own.note
    own.folder.begin(own._asked)  # noqa: SLF001 - likewise
    for path in moved:
        path.rename(Path("digits") / path.name)
    again = looping.plan_loop(trained.solver, options=options, out="own")
    assert (again.start.adopted, again.note) == (False, "")


def test_a_deploy_net_that_does_not_fit_the_best_is_named(out: Path, ended: caffe_split.MultiSplits) -> None:
    for mark in out.glob("done/*.fold.json"):
        mark.write_text(json.dumps({**json.loads(mark.read_text()), "kept": {"conv1": "a reason"}}))
    loop, words = looping.plan_loop(SOLVER, options=SHORT, out=out), Words()
    loop._deploy = Path("d.prototxt")  # noqa: SLF001 - the folder was begun without one
    loop.run(words)
    assert words.said == [
        "best/ has no d.prototxt: it fits a net whose splits are all folded, and those of conv1 stay."
    ]
