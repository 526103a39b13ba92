"""The steps of a study: what each waits for, and an arm of several rounds."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.study.study_files import write_study

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

from caffe_split.data.digits import write_digits
from caffe_split.errors import CaffeSplitError
from caffe_split.files import write_atomic
from caffe_split.study import steps
from caffe_split.study.checks import check_same
from caffe_split.study.duration import work
from caffe_split.study.model import Study
from caffe_split.study.nets import solver_for
from caffe_split.study.paths import PLAN, open_study, read_json, run_folder, write_json
from caffe_split.study.plan import stages_of, steps_of
from caffe_split.study.read import read_study
from caffe_split.study.remarks import of_earlier_plans
from caffe_split.study.results import Trained
from caffe_split.study.run import begin
from caffe_split.study.train import FIRST, TRAINED


def test_every_step_comes_after_what_it_needs(tmp_path: Path) -> None:
    arms = [
        {"name": "a", "kind": "residual", "rounds": [15, 20]},
        {"name": "b-c", "kind": "skip"},
        {"name": "b.c", "kind": "residual", "residual_activation": "relu"},
    ]
    study = read_study(
        write_study(tmp_path, arms=arms, engine="torch", controls={"random": "kinds", "wider": "all"}, interval=1)
    )
    seen: set[str] = set()
    for step in steps_of(study):
        assert set(step.needs) <= seen
        seen.add(step.output)
    assert len(seen) == len(steps_of(study))
    needs = {step.title: step.needs for step in steps_of(study)}
    for title, needed in (
        ("s3.baseline.train", "data"),
        ("s3.continue.train", "s3.baseline.train"),
        ("s3.a@1.derive", "s3.baseline.train"),
        ("s3.a@2.derive", "s3.a@1.train"),
        ("s3.a.train", "s3.a.derive"),
        ("s3.a.fold", "s3.a.train"),
        ("s3.random-a.derive", "s3.random-a@2.train"),
        ("s3.wider-a.train", "s3.a.derive"),
    ):
        assert needs[title] == (f"done/{needed}.json",)
    # A residual with ReLU between cannot be folded.
    assert "done/s3.b-c.fold.json" in seen and "done/s3.b.c.fold.json" not in seen


def test_an_arm_in_rounds(tmp_path: Path) -> None:
    arms = [{"name": "a", "kind": "residual", "rounds": [15, 20]}]
    study = read_study(write_study(tmp_path, arms=arms, engine="torch", interval=1))
    stages = stages_of(study, study.arms[0])
    assert [(s.name, s.parent, s.at, s.until, s.window) for s in stages] == [
        ("a@1", "baseline", 10, 15, (0, 10)),
        ("a@2", "a@1", 15, 20, (10, 15)),
        ("a", "a@2", 20, None, (15, 20)),
    ]
    assert study.windows == [(0, 10), (10, 15), (15, 20)]
    # As long as the control, in parts.
    sizes = work(study)
    assert [sizes[f"s3.{name}.train"] for name in ("a@1", "a@2", "a", "continue")] == [5, 5, 10, 20]


def test_a_folder_keeps_the_comparisons_that_it_was_begun_with(tmp_path: Path) -> None:
    """Arms that are taken out when their results are known make no interval narrower."""
    arms = [{"name": name, "kind": "skip"} for name in "abcd"]
    controls = {"random": ["a"], "wider": "none"}

    def begun(**changes: Any) -> Study:
        study = read_study(write_study(tmp_path, controls=controls, **changes))
        begin(study, tmp_path, steps_of(study))
        return open_study(tmp_path)

    assert begun(arms=arms, compare={"a": "b"}).comparisons == 4 + 1 + 1 + 1
    less = begun(arms=arms[:2])
    assert less.comparisons == 7 and less.earlier == (("c", "continue"), ("d", "continue"), ("a", "b"))
    # What comes is new; what comes back is not, whichever of the two is named first.
    new = {"name": "e", "kind": "skip"}
    more = begun(arms=[*arms[:3], new], compare={"b": "a"})
    assert more.comparisons == 8 and more.earlier == (("d", "continue"),)
    assert of_earlier_plans(more) == [
        "Of the 8 comparisons that the intervals are corrected for, 1 is of earlier plans of the study's folder: "
        "d less continue."
    ]
    assert of_earlier_plans(begun(arms=[*arms, new], compare={"b": "a"})) == []


def test_the_name_of_an_arm_that_was_taken_out_is_given_to_no_other(tmp_path: Path) -> None:
    """Its runs lie in the folder, and would be taken for the other's."""

    def study(*arms: dict[str, Any]) -> Study:
        return read_study(write_study(tmp_path, arms=arms))

    a, b, other = {"name": "a", "kind": "skip"}, {"name": "b", "kind": "skip"}, {"name": "a", "kind": "residual"}
    for arms in ((a, b), (b,), (b, {"name": "c", "kind": "dbb"})):
        begin(study(*arms), tmp_path, steps_of(study(*arms)))
    for same in (study(a, b), study(a)):
        check_same(same, {}, tmp_path)
    with pytest.raises(CaffeSplitError, match="its arm a is another; choose another name, or another --out"):
        begin(study(other, b), tmp_path, [])
    # A plan of a version that forgot the arm; its marks are there.
    plan = read_json(tmp_path / PLAN)
    write_json(tmp_path / PLAN, {**plan, "study": {**plan["study"], "gone": []}})
    check_same(study(other, b), {}, tmp_path)
    for run in ("a", "a@1", "wider-a"):
        mark = tmp_path / f"done/s3.{run}.train.json"
        write_json(mark, {})
        with pytest.raises(CaffeSplitError, match=r"it has runs of an arm a that its plan\.json does not describe"):
            check_same(study(other, b), {}, tmp_path)
        mark.rename(tmp_path / "done/s3.x.a.train.json")
        check_same(study(other, b), {}, tmp_path)


CHAIN = [
    {"name": "a", "kind": "residual"},
    {"name": "a2", "kind": "residual", "after": "a"},
    {"name": "b2", "kind": "skip", "after": "a"},
    {"name": "a3", "kind": "residual", "after": "a2"},
]


def test_a_round_splits_the_net_of_another_arm_and_has_a_control_as_long(tmp_path: Path) -> None:
    controls = {"random": ["a2"], "wider": "none"}
    study = read_study(write_study(tmp_path, seeds=[3], arms=CHAIN, schedule="restart", controls=controls))
    needs = {step.title[3:]: [need[8:-5] for need in step.needs] for step in steps_of(study) if step.seed == 3}
    for title, needed in (
        ("continue.train", "baseline.train"),
        ("continue2.train", "continue.train"),
        ("continue3.train", "continue2.train"),
        ("a.derive", "baseline.train"),
        ("a2.derive", "a.train"),
        ("b2.derive", "a.train"),
        ("a3.derive", "a2.train"),
        ("random-a2.derive", "a.train"),
        ("a3.fold", "a3.train"),
    ):
        assert needs[title] == [needed], title
    assert study.controls == ["continue", "continue2", "continue3"]
    arms = [arm.name for arm in study.all_arms()]
    assert [study.control_of(name) for name in arms] == [
        "continue",
        "continue2",
        "continue2",
        "continue3",
        "continue2",
    ]
    assert [(s.parent, s.at, s.until, s.window) for s in stages_of(study, study.arms[3])] == [("a2", 10, None, (0, 10))]
    # All of them are trained whole, and those that others start from keep their snapshot at the split.
    assert set(work(study).values()) == {30}
    solvers = {run: solver_for(study, 3, Path("s3") / run, "x", 30) for run in ("continue3", "a3", "random-a2")}
    assert {run: solver.get("snapshot") for run, solver in solvers.items()} == {
        "continue3": 10,
        "a3": 10,
        "random-a2": 0,
    }


def test_an_arm_after_one_that_is_done_finds_its_snapshot_or_is_refused(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path, seeds=[3], arms=CHAIN[:2], schedule="restart"))
    write_json(tmp_path / PLAN, {"study": study.as_dict()})
    trained = {"final": 0.5}
    for run, other in (("continue", "continue2"), ("a", "a2")):
        mark, kept = tmp_path / f"done/s3.{run}.train.json", tmp_path / f"s3/{run}/{tmp_path.name}_iter_10.caffemodel"
        write_json(mark, {"failed": "no disk"})
        check_same(study, {}, tmp_path)
        write_json(mark, trained)
        with pytest.raises(CaffeSplitError, match=f"its run {run} of seed 3 is done without .*, from which {other} is"):
            check_same(study, {}, tmp_path)
        write_json(tmp_path / f"done/s3.{other}.train.json", trained)
        check_same(study, {}, tmp_path)
        (tmp_path / f"done/s3.{other}.train.json").unlink()
        kept.parent.mkdir(parents=True)
        kept.write_bytes(b"")
        check_same(study, {}, tmp_path)


def test_a_step_that_fails_by_a_fault_of_ours_is_marked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The steps behind it then end with its reason, and the table has it."""

    def faulty(*_: object) -> dict[str, object]:
        raise ZeroDivisionError("division by zero")

    study = read_study(write_study(tmp_path, seeds=[3]))
    monkeypatch.chdir(tmp_path)
    write_json(PLAN, {"study": study.as_dict()})
    monkeypatch.setitem(steps.VERBS, "data", faulty)
    for title in ("data", "s3.baseline.train"):
        steps.run_step(title)
    assert read_json(Path("done/data.json"))["failed"] == "ZeroDivisionError: division by zero"
    why = "after data failed: ZeroDivisionError: division by zero"
    assert read_json(Path("done/s3.baseline.train.json"))["failed"] == why


def test_a_training_took_what_its_earlier_starts_took(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    study = read_study(write_study(tmp_path, seeds=[3]))
    log = "".join(
        f"I0101 00:{minute}:{second}.000000 7 solver.cpp:1] {line}\n"
        for minute, last in ((10, 40), (20, 30))
        for second, line in ((10, "Initializing solver"), (10, "Solving tiny"), (last, f"Iteration {minute}, loss = 1"))
    )

    def resumed(*_: object) -> Trained:
        for name in (FIRST, TRAINED):
            write_atomic(run_folder(3, "baseline") / name, log.encode())
        return Trained(10, 7, "accuracy", 0.8, 0.8, 10, (), 3.0, 1.0, {})

    monkeypatch.chdir(tmp_path)
    write_json(PLAN, {"study": study.as_dict()})
    write_json(Path("done/data.json"), {})
    run_folder(3, "baseline").mkdir(parents=True)
    monkeypatch.setitem(steps.VERBS, "train", resumed)
    monkeypatch.setattr("caffe_split.study.steps.time.time", lambda: 7.0)
    steps.run_step("s3.baseline.train")
    assert read_json(Path("done/s3.baseline.train.json"))["seconds"] == 30 + 30


def test_data_that_are_made_in_part_are_made_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("sklearn")
    write_json(tmp_path / PLAN, {"study": read_study(write_study(tmp_path)).as_dict()})
    write_digits(tmp_path / "data")
    sets = [tmp_path / "data" / name / "data.mdb" for name in ("digits_train_lmdb", "digits_test_lmdb")]
    before = [each.read_bytes() for each in sets]
    shutil.rmtree(sets[1].parent)
    monkeypatch.chdir(tmp_path)
    steps.run_step("data")
    assert "failed" not in read_json(Path("done/data.json"))
    assert [each.read_bytes() for each in sets] == before


def test_who_ran_it_is_kept_for_what_was_run(tmp_path: Path) -> None:
    """A start with nothing to do adds nothing; one that tries failures again does."""
    study = read_study(write_study(tmp_path, seeds=[3]))
    titles = steps_of(study)
    write_json(tmp_path / PLAN, {"study": study.as_dict(), "run_by": ["an earlier one"]})
    for step in titles:
        write_json(tmp_path / step.output, {})
    begin(study, tmp_path, titles)
    assert read_json(tmp_path / PLAN)["run_by"] == ["an earlier one"]
    write_json(tmp_path / titles[-1].output, {"failed": "no disk"})
    begin(study, tmp_path, titles)
    first, now = read_json(tmp_path / PLAN)["run_by"]
    assert first == "an earlier one" and "trained by BVLC Caffe" in now and " cores" in now
