"""Where TPM is measured: the window and the split that are asked for, also in a net with TPM layers of its own."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

import caffe_split
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.formats.prototxt.nets import read_solver
from caffe_split.net.training import open_training
from caffe_split.rounds import loop as looping
from caffe_split.rounds.window import Watch, watch_of
from caffe_split.tpm.layers import watchers, windows_of
from tests.rounds.loop_words import SHORT, SOLVER, change_solver
from tests.support import Trained

NET = Path("digits/train_val.prototxt")
# One round without a control.
ONE = replace(SHORT, rounds=1, control=False, iteration=30, window=(10, 20))


@pytest.fixture
def here(folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The digits, never trained."""
    shutil.copytree(folder / "digits", tmp_path / "digits")
    os.symlink(folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def windows(net: Path) -> set[tuple[int, int]]:
    return {pair for layer in watchers(prototxt.read(net)).values() for pair in windows_of(layer).pairs}


def test_a_window_may_end_before_the_split(here: Path) -> None:
    solver = read_solver(SOLVER)
    assert watch_of(ONE, solver) == Watch(((10, 20),), 1, 10, 30)
    assert watch_of(replace(ONE, window=None), solver) == Watch(((0, 30),), 1, 10, 30)
    assert watch_of(replace(ONE, iteration=None), solver) == Watch(((10, 20),), 1, 10, 20)


def test_a_schedule_that_goes_on_has_something_left_behind_each_window(here: Path) -> None:
    change_solver(("max_iter: 40", "max_iter: 36"))
    solver = read_solver(SOLVER)
    auto = replace(ONE, iteration=None, window=None)
    goes_on = replace(auto, derive=replace(auto.derive, schedule="continue"))
    assert watch_of(auto, solver).windows[-1][1] == 36 > watch_of(goes_on, solver).windows[-1][1]
    change_solver(("display: 4", "display: 12"))
    with pytest.raises(CaffeSplitError, match=r"no schedule is left to continue\. Give --iter N"):
        watch_of(goes_on, read_solver(SOLVER))


def test_a_net_with_tpm_layers_of_its_own_is_watched_in_the_loops_window(here: Path) -> None:
    """And a solver without a last snapshot has one; the best net is the user's, with the user's TPM layers."""
    caffe_split.instrument(open_training(NET), [(30, 40)], interval=5).write(NET, force=True)
    change_solver(("max_iter: 40", "max_iter: 40\nsnapshot_after_train: false"))
    text = NET.read_bytes()
    caffe_split.multisplit(SOLVER, options=ONE, out="m")
    assert windows(Path("m/baseline/train_val.prototxt")) == {(10, 20)}
    command = json.loads(Path("m/MultiSplits/manifest.json").read_text())["command"]
    assert command[command.index("--window") + 1] == "10:20" and command[command.index("--iter") + 1] == "30"
    assert Path("m/best/train_val.prototxt").read_bytes() == text == NET.read_bytes()
    # The same files by other paths are the same loop; others are told apart.
    assert looping.plan_loop(here / SOLVER, options=ONE, out="m").left() == []
    shutil.copy("m/best/train_val.prototxt", "deploy.prototxt")
    with pytest.raises(CaffeSplitError, match=r"m was begun without deploy\.prototxt; leave it out, or"):
        looping.plan_loop(SOLVER, options=ONE, deploy="deploy.prototxt", out="m")


def test_an_adopted_training_is_split_by_the_window_that_it_was_watched_in(
    trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(trained.folder, tmp_path / "run")
    monkeypatch.chdir(tmp_path / "run")
    assert windows(Path(trained.net)) == {(0, 100)}
    loop = looping.plan_loop(trained.solver, options=replace(SHORT, iteration=90), out="m")
    assert loop.start.adopted, loop.note
    assert (loop.start.watch.windows, loop.start.watch.split) == (((0, 90),), 90)
