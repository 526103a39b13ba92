"""What a loop refuses before it trains, and what it says of a folder that others use."""

from __future__ import annotations

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import caffe_split
from caffe_split.errors import CaffeSplitError
from caffe_split.rounds import loop as looping
from caffe_split.rounds.options import MultiSplitOptions
from caffe_split.rounds.progress import LoopProgress, Silent
from caffe_split.rounds.training import Runner
from tests.rounds.loop_words import SHORT, SOLVER, Words, change_solver


@pytest.mark.parametrize(
    ("change", "options", "words"),
    [
        (("test_interval: 20", "test_interval: 0"), {}, "it never tests"),
        (("test_interval: 20", "test_interval: 500"), {}, "it never tests"),
        (("max_iter: 40", "max_iter: 0"), {}, "there is nothing to train"),
        (("net:", "train_net:"), {}, "names one net for training and testing"),
        (("net:", 'test_net: "t.prototxt"\nnet:'), {}, "names one net for training and testing"),
        (("display: 4", "display: 0"), {"iteration": None}, "display is 0, and the split"),
        (("display: 4", "display: 14"), {"iteration": None}, "in a window of 4 displays or more; max_iter is 40"),
        (("display: 4", "display: 4"), {"iteration": 40}, "not inside the training"),
        (("display: 4", "display: 4"), {"iteration": None, "window": (0, 50)}, "not inside the training"),
        (("display: 4", "display: 4"), {"layers": 99}, "99 layers to split, and"),
        (("display: 4", "display: 4"), {"layers": ("conv9",), "rounds": 1}, "layer 'conv9' cannot be split"),
    ],
)
def test_what_cannot_be_compared_is_refused_before_anything_is_trained(
    folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    change: tuple[str, str],
    options: dict[str, object],
    words: str,
) -> None:
    shutil.copytree(folder / "digits", tmp_path / "digits")
    os.symlink(folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    change_solver(change)
    with pytest.raises(CaffeSplitError, match=words):
        caffe_split.multisplit(SOLVER, options=replace(SHORT, **options))
    assert not Path("multisplit").exists()


def test_a_folder_of_others_and_of_other_choices_is_left_alone(
    folder: Path, ended: caffe_split.MultiSplits, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.chdir(folder)
    (tmp_path / "mine").write_text("x")
    with pytest.raises(CaffeSplitError, match="was not made by `multisplit`"):
        caffe_split.multisplit(SOLVER, options=SHORT, out=tmp_path)
    with pytest.raises(CaffeSplitError, match="begun with layers 2, not 3"):
        caffe_split.multisplit(SOLVER, options=replace(SHORT, layers=3), out="whole")
    shutil.copytree("digits", tmp_path / "digits")
    os.symlink(folder / "data", tmp_path / "data")
    shutil.copytree("whole", tmp_path / "whole")
    monkeypatch.chdir(tmp_path)
    change_solver(("base_lr: 0.01", "base_lr: 0.02"))
    with pytest.raises(CaffeSplitError, match=r"solver\.prototxt has changed since .* was begun"):
        caffe_split.multisplit(SOLVER, options=SHORT, out="whole")


@pytest.mark.parametrize(
    ("choices", "words"),
    [
        ({"rounds": 0}, "rounds is 0"),
        ({"rounds": None}, "rounds is None"),
        ({"layers": 0}, "layers is 0"),
        ({"layers": True}, "layers is True"),
        ({"layers": 1.5}, "layers is 1.5"),
        ({"layers": "conv1"}, r"write \['conv1'\]"),
        ({"layers": ()}, r"layers is \(\), expected a number, or names"),
        ({"iteration": "2"}, "iteration is '2'"),
        ({"iteration": 2.5}, "iteration is 2.5"),
        ({"threads": 0}, "threads is 0"),
        ({"control": "no"}, "True or False as control"),
        ({"window": "0:2"}, r"pairs \(start, stop\)"),
        ({"window": (3, 1)}, r"with start < stop"),
        ({"window": (5,), "iteration": 3}, r"found \[\(5,\)\]"),
        ({"layers": ("a",), "rounds": 2}, "--rounds 1"),
        ({"window": (0, 30), "iteration": 20}, "after the split at 20"),
        ({"derive": caffe_split.DeriveOptions(schedule="continue")}, "give --rounds 1, or --schedule restart"),
        ({"layers": ("a",), "rounds": 1, "derive": caffe_split.DeriveOptions(choose_by="snip")}, "--layers names them"),
    ],
)
def test_choices_that_contradict_each_other_are_refused(choices: dict[str, object], words: str) -> None:
    with pytest.raises(CaffeSplitError, match=words):
        MultiSplitOptions(**choices)  # type: ignore[arg-type]


@pytest.mark.parametrize("name", ["rounds", "layers", "iteration", "threads"])
def test_whole_numbers_of_numpy_are_kept_as_numbers(name: str) -> None:
    options = MultiSplitOptions(**{name: np.int64(5)})  # type: ignore[arg-type]
    assert type(getattr(options, name)) is int
    json.dumps(options.as_dict())


def test_names_of_layers_may_be_a_list() -> None:
    assert MultiSplitOptions(rounds=1, layers=["a"]).layers == ("a",)  # type: ignore[arg-type]


@pytest.mark.parametrize("argument", ["options", "weights", "deploy", "out"])
def test_an_argument_of_another_type_is_named(argument: str) -> None:
    with pytest.raises(CaffeSplitError, match=r"expected .*(options|weights|deploy net|folder out), found int 5"):
        looping.plan_loop("solver.prototxt", **{argument: 5})  # type: ignore[arg-type]


def test_missing_data_is_named_before_anything_is_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "digits", tmp_path / "digits")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(CaffeSplitError, match="data/digits_train_lmdb"):
        caffe_split.multisplit(SOLVER, options=SHORT)
    assert not Path("multisplit").exists()


def test_a_baseline_that_diverges_is_refused_each_time(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "digits", tmp_path / "digits")
    os.symlink(folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    change_solver(("base_lr: 0.01", "base_lr: 1e30"))
    for _ in range(2):
        with pytest.raises(CaffeSplitError, match=r"the baseline diverged: .* lower base_lr"):
            caffe_split.multisplit(SOLVER, options=replace(SHORT, rounds=1), out="wild")
    assert not list(Path("wild/done").iterdir())


def test_of_two_commands_on_a_new_folder_the_second_sees_what_the_first_began(
    folder: Path, ended: caffe_split.MultiSplits, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    out = tmp_path / "new"
    first = looping.plan_loop(SOLVER, options=SHORT, out=out)
    other = replace(SHORT, derive=caffe_split.DeriveOptions(seed=7))
    second = looping.plan_loop(SOLVER, options=other, out=out)
    with first.folder.held(), pytest.raises(CaffeSplitError, match="another multisplit is at work"):
        second.run(Words())
    assert not list(out.iterdir())

    def killed(self: looping.Loop, screen: Words) -> str:
        raise KeyboardInterrupt

    monkeypatch.setattr(looping.Loop, "_run", killed)
    with pytest.raises(KeyboardInterrupt):
        first.run(Words())
    with pytest.raises(CaffeSplitError, match="begun with seed 0, not 7"):
        second.run(Words())


@pytest.mark.parametrize(("name", "words"), [("gone.prototxt", "no deploy net"), ("train_val.prototxt", "rename one")])
def test_a_deploy_net_that_cannot_stand_in_best_is_refused(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, words: str
) -> None:
    monkeypatch.chdir(folder)
    (tmp_path / "train_val.prototxt").write_text("# a deploy net\n")
    with pytest.raises(CaffeSplitError, match=words):
        looping.plan_loop(SOLVER, options=SHORT, deploy=tmp_path / name, out="never")


def test_a_test_net_without_an_accuracy_is_refused_before_anything_is_trained(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copytree(folder / "digits", tmp_path / "digits")
    os.symlink(folder / "data", tmp_path / "data")
    monkeypatch.chdir(tmp_path)
    net = caffe_split.read_net("digits/train_val.prototxt")
    for field in net.all_fields("layer"):
        if field.message is not None and field.message.get("type") == "Accuracy":
            net.remove(field)
    Path("digits/train_val.prototxt").write_bytes(net.to_bytes())
    with pytest.raises(CaffeSplitError, match="its test net has no Accuracy layer"):
        caffe_split.multisplit(SOLVER, options=SHORT)
    assert not Path("multisplit").exists()


def test_trained_weights_need_the_net_as_a_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A net within the solver becomes a file where a training is begun; an adopted one has none."""
    monkeypatch.chdir(tmp_path)
    net = 'layer { name: "d" type: "Input" top: "d" }'
    Path("s.prototxt").write_text(f'net_param {{ {net} }} base_lr: 0.1 lr_policy: "fixed"')
    runner = Runner("torch", None, LoopProgress(Silent(), 0, 0))
    with pytest.raises(CaffeSplitError, match=r"into s_net.prototxt, and name that by `net`"):
        runner.test(Path("s.prototxt"), Path("s_net.prototxt"), Path("w.caffemodel"), tmp_path)
