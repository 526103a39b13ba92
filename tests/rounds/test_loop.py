"""The loop of rounds: what it leaves, that it goes on where it was stopped, and what it refuses before training."""

from __future__ import annotations

import html
import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import caffe_split
from caffe_split.derivation.after_split import read_course
from caffe_split.errors import CaffeSplitError
from caffe_split.net.training import open_training
from caffe_split.rounds import loop as looping
from caffe_split.rounds.duration import FIRST, MOST, Estimate, estimate, pace_of
from caffe_split.rounds.folder import LoopFolder
from caffe_split.rounds.options import MultiSplitOptions
from caffe_split.rounds.plan import LoopStep
from caffe_split.rounds.progress import LoopProgress
from caffe_split.rounds.result import MultiSplits, Round, Row
from caffe_split.rounds.steps import Start, Steps
from caffe_split.rounds.training import Runner
from caffe_split.rounds.window import Watch
from tests.rounds.loop_words import ROUNDS, SHORT, SOLVER, Words, change_solver
from tests.support import Trained


def test_the_best_round_is_the_users_net_byte_for_byte_with_better_weights(
    folder: Path, ended: caffe_split.MultiSplits
) -> None:
    best = folder / "whole/best"
    assert (best / "train_val.prototxt").read_bytes() == (folder / "digits/train_val.prototxt").read_bytes()
    assert ended.best is not None
    assert ended.best.folded.parameters == ended.baseline.parameters
    net = caffe_split.read_net(best / "train_val.prototxt")
    names = {layer.get("name") for layer in net.subs("layer")}
    assert set(caffe_split.read_weights(best / "folded.caffemodel")) <= names


def test_each_round_stands_beside_its_control_and_folds_to_its_own_accuracy(ended: caffe_split.MultiSplits) -> None:
    assert [row.name for row in ended.rows()] == [
        "baseline",
        "MultiSplits",
        "MultiSplits, folded",
        "control",
        "MultiSplits2",
        "MultiSplits2, folded",
        "control2",
    ]
    for each in ended.rounds:
        assert each.folded.accuracy == pytest.approx(each.split.accuracy, abs=1 / 400)
        assert each.control is not None
        assert each.control.parameters == ended.baseline.parameters
    assert ended.images == 400


def test_the_outcome_lies_in_the_folder(folder: Path, ended: caffe_split.MultiSplits) -> None:
    whole = folder / "whole"
    assert json.loads((whole / "result.json").read_text())["sentence"] == ended.sentence()
    assert (whole / "table.md").read_text() == f"{ended.table()}\n\n{ended.sentence()}\n"
    assert (whole / "curves.png").read_bytes()[:4] == b"\x89PNG"
    report = (whole / "report.html").read_text()
    assert "MultiSplits2" in report and report.count("<h3>Gradients after the split</h3>") == 2
    for name in ROUNDS:
        course = read_course(whole / name)
        assert course is not None and course.iterations == (0, 10, 20, 30, 40)
        assert course.sentence() in html.unescape((whole / f"gradients-{name}.svg").read_text())


def test_the_users_files_stay_as_they_are(folder: Path, ended: caffe_split.MultiSplits) -> None:
    assert sorted(path.name for path in (folder / "digits").iterdir()) == ["solver.prototxt", "train_val.prototxt"]


def test_a_finished_loop_trains_nothing_again(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr(Steps, "run", lambda self, step: pytest.fail(f"{step.title} was done again"))
    assert caffe_split.multisplit(SOLVER, options=SHORT, out="whole") == ended


def test_stopped_before_and_within_every_step_the_loop_ends_in_the_same_table(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    run, seen = Steps.run, set()

    def stopped(self: Steps, step: LoopStep) -> dict[str, object]:
        # Each step is done and lost once, as by a kill before its mark was written.
        result = run(self, step)
        if step.title not in seen:
            seen.add(step.title)
            raise KeyboardInterrupt
        return result

    monkeypatch.setattr(Steps, "run", stopped)
    starts = 0
    while True:
        starts += 1
        try:
            again = caffe_split.multisplit(SOLVER, options=replace(SHORT, rounds=1), out="stopped")
            break
        except KeyboardInterrupt:
            continue
    assert starts == len(seen) + 1 == 7
    assert (again.baseline, again.rounds) == (ended.baseline, ended.rounds[:1])


def test_a_round_that_diverges_ends_the_loop_and_keeps_what_was_good(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    wild = replace(SHORT, derive=caffe_split.DeriveOptions(init="study", added_lr=1e9))
    words = Words()
    found = caffe_split.multisplit(SOLVER, options=wild, out="wild", screen=words)
    assert found.rounds == ()
    assert "MultiSplits diverged: its loss is not finite from iteration" in found.stopped
    assert "No round was finished" in found.sentence()
    assert found.baseline.accuracy > 0
    again = caffe_split.multisplit(SOLVER, options=wild, out="wild")
    assert again == found


def test_a_net_within_the_solver_is_improved_like_one_in_a_file(
    folder: Path, ended: caffe_split.MultiSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    os.symlink(folder / "data", tmp_path / "data")
    net = (folder / "digits/train_val.prototxt").read_text()
    text = (folder / SOLVER).read_text().replace('net: "digits/train_val.prototxt"', f"net_param {{\n{net}}}")
    monkeypatch.chdir(tmp_path)
    Path("solver.prototxt").write_text(text.replace("digits/digits", "digits"))
    options = MultiSplitOptions(
        rounds=1,
        layers=("conv1",),
        iteration=20,
        threads=1,
        control=False,
        derive=caffe_split.DeriveOptions(partition="random:0"),
    )
    found = caffe_split.multisplit("solver.prototxt", options=options, out="m")
    assert found.baseline.accuracy == ended.baseline.accuracy
    assert Path("m/best/solver_net.prototxt").is_file()


def test_a_trained_baseline_is_adopted_where_its_snapshots_tell_tpm(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    loop = looping.plan_loop(trained.solver, options=replace(SHORT, iteration=90), out="m")
    assert loop.start.adopted, loop.note
    assert loop.steps[0].iterations == 0
    Path("digits/train.log").write_text(trained.log)
    assert looping.plan_loop(trained.solver, options=replace(SHORT, iteration=90), out="m").start.adopted
    change_solver(("base_lr: 0.01", "base_lr: 0.02"))
    with pytest.raises(CaffeSplitError, match=r"another solver, as digits/train\.log says: base_lr 0\.01 there, 0\.02"):
        looping.plan_loop(trained.solver, options=replace(SHORT, iteration=90), out="m")


def test_old_weights_with_more_layers_are_refused_before_anything_is_trained(
    folder: Path, ended: caffe_split.MultiSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    old = caffe_split.read_weights("whole/best/folded.caffemodel")
    more = tmp_path / "more.caffemodel"
    caffe_split.write_weights(more, {**{name: list(old[name]) for name in old}, "aux": [np.ones((4, 4))]})
    derive = caffe_split.DeriveOptions(choose_by="random:0", partition="random:0")
    options = replace(SHORT, derive=derive)
    with pytest.raises(CaffeSplitError, match=r"weights of 'aux', which .* --ignore-extra-weights leaves them out"):
        caffe_split.multisplit(SOLVER, options=options, weights=more, out="extra")
    assert not Path("extra").exists()
    options = replace(options, derive=replace(derive, ignore_extra_weights=True))
    assert looping.plan_loop(SOLVER, options=options, weights=more, out="extra").start.adopted


def test_an_old_caffemodel_is_split_as_it_is_where_nothing_asks_for_tpm(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    options = MultiSplitOptions(
        rounds=1, layers=("conv1",), iteration=20, threads=1, derive=caffe_split.DeriveOptions(partition="random:0")
    )
    (Path("deploy.prototxt")).write_text("# the user's deploy net\n")
    found = caffe_split.multisplit(
        SOLVER, options=options, weights="whole/best/folded.caffemodel", deploy="deploy.prototxt", out="old"
    )
    assert ended.best is not None
    assert found.baseline.accuracy == ended.best.folded.accuracy
    assert Path("old/best/deploy.prototxt").read_text() == "# the user's deploy net\n"


def test_old_weights_go_through_rounds_without_any_tpm(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Chosen and divided by saliency; the second round splits where the first one's loss fell fastest."""
    monkeypatch.chdir(folder)
    derive = caffe_split.DeriveOptions(choose_by="snip", partition="score:snip", calibrate=2)
    options = MultiSplitOptions(rounds=2, layers=2, threads=1, control=False, derive=derive)
    old = "whole/baseline/digits_iter_40.caffemodel"
    words = Words()
    loop = looping.plan_loop(SOLVER, options=options, weights=old, out="saliency")
    assert loop.start.adopted and not loop.start.watched
    assert "each round splits 2 layers by snip; residual, partition score:snip, scores of 2 batches" in loop.choices()
    found = loop.run(words)
    assert len(found.rounds) == 2
    plans = [json.loads(Path(f"saliency/{name}/manifest.json").read_text())["plan"] for name in ROUNDS]
    assert (plans[0]["weights"], plans[0]["iteration"]) == (old, None)
    assert plans[1]["iteration"] % 12 == 0  # windows of four displays
    assert all(plan["saliency"]["batches"] == 2 for plan in plans)
    assert "TPM" not in Path("saliency/MultiSplits2/train_val.prototxt").read_text()


@pytest.mark.parametrize(("losses", "expected"), [((5, 4, 1, 1, 1, 1, 1, 1), 12), ((1, 1, 2, 2, 3, 3, 4, 4), 24)])
def test_after_given_weights_rounds_split_where_the_loss_falls_or_at_the_end(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, losses: tuple[float, ...], expected: int
) -> None:
    monkeypatch.chdir(folder)
    watch = Watch(((0, 12), (12, 24)), 1, 12)
    start = Start(open_training(SOLVER), watch, watched=False, adopted=True, weights=Path("w.caffemodel"))
    (tmp_path / "MultiSplits").mkdir()
    lines = [
        f"I0101 00:00:00.000000 1 solver.cpp:239] Iteration {4 * place} (9 iter/s, 1s/4 iters), loss = {loss}"
        for place, loss in enumerate(losses)
    ]
    (tmp_path / "MultiSplits/train.log").write_text("\n".join(lines) + "\n")
    runner = Runner("caffe", None, LoopProgress(Words(), 0, 0))
    steps = Steps(start, LoopFolder(tmp_path), SHORT, runner, Words())
    assert steps.at()[0] == expected


def test_a_round_that_continues_goes_on_at_the_split(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    derive = caffe_split.DeriveOptions(schedule="continue")
    options = replace(SHORT, rounds=1, derive=derive)
    loop = looping.plan_loop(SOLVER, options=options, out="continued")
    assert [step.iterations for step in loop.steps if step.verb == "train"] == [40, 20, 20]
    found = loop.run(Words())
    for name in ("MultiSplits", "control"):
        assert caffe_split.read_log(f"continued/{name}/train.log").runs[0].first_iteration == 20
    assert found.rounds[0].control is not None


@pytest.mark.parametrize("slope", [0.0, -1.0])
def test_a_timing_ends_where_longer_trainings_seem_to_take_no_longer(slope: float) -> None:
    """As on a busy machine: the start takes longer one time than the other."""
    counts: list[int] = []

    def run(count: int) -> float:
        counts.append(count)
        return 9.0 + slope * count / MOST

    start, iteration = pace_of(run)
    assert counts[-1] == MOST
    assert all(after <= 12 * before for before, after in zip(counts, counts[1:]))
    assert (start, iteration) == (9.0 + slope * FIRST / MOST, 0.0)
    assert pace_of(lambda count: 1.5 + 0.004 * count) == pytest.approx((1.5, 0.004))


def test_the_sentence_names_the_net_without_a_split_that_did_better() -> None:
    def row(name: str, accuracy: float) -> Row:
        return Row(name, accuracy, None, 1, 1)

    def ended(control: float, folded: float) -> str:
        one = Round(row("MultiSplits", 0.9), row("MultiSplits, folded", folded), row("control", control), ())
        return MultiSplits(row("baseline", 0.8), (one,), 1000).sentence()

    assert ended(0.93, 0.92).endswith("seeds. The same net without a split did better: control, 0.9300.")
    assert ended(0.7, 0.75).endswith("did better: baseline, 0.8000.")
    assert ended(0.92, 0.92).endswith("compares several seeds.")


def test_a_round_that_costs_more_than_the_net_is_best_only_where_all_do() -> None:
    def row(accuracy: float) -> Row:
        return Row("", accuracy, None, 1, 1)

    whole = Round(row(0.8), row(0.8), None, ())
    kept = Round(row(0.9), row(0.9), None, ("conv2",))
    assert MultiSplits(row(0.5), (kept, whole), None).best is whole
    assert "the best of 1 was" in MultiSplits(row(0.5), (kept, whole), None).sentence()
    assert MultiSplits(row(0.5), (kept,), None).best is kept


def test_the_estimate_counts_only_what_is_left(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    monkeypatch.setattr("caffe_split.rounds.duration.ENOUGH", 0.01)
    assert estimate(looping.plan_loop(SOLVER, options=SHORT, out="whole")) == Estimate(0, 0)
    fresh = estimate(looping.plan_loop(SOLVER, options=replace(SHORT, rounds=1), out="fresh"))
    assert fresh.now > 0 and 0 < fresh.idle <= fresh.now
    assert not Path("fresh").exists()
