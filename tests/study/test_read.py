"""A study's file is checked whole before anything runs; each mistake is one line that names the key."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import lmdb
import numpy as np
import pytest

from caffe_split.data.store import write_store
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.split.kinds import KIND_NAMES
from caffe_split.tpm.layers import Windows, add_watchers
from tests.study.study_files import HERE, write_study
from tests.support import ROOT, caffe_split

pytest.importorskip("yaml", reason="PyYAML is not installed: pip install pyyaml")

from caffe_split.study.checks import check_same
from caffe_split.study.data import check_data
from caffe_split.study.model import Study
from caffe_split.study.nets import study_net
from caffe_split.study.paths import PLAN, write_json
from caffe_split.study.plan import stages_of
from caffe_split.study.read import read_study


def test_a_study_survives_its_json(tmp_path: Path) -> None:
    controls = {"random": "first", "rates": [2, 0.5]}
    study = read_study(write_study(tmp_path, seeds=3, layers=["res1_conv1"], num_splits=None, controls=controls))
    assert study.rated == {"rate-2": 2.0, "rate-0.5": 0.5}
    assert study.seeds == (1, 2, 3) and study.arms[0].layers == ("res1_conv1",) and study.window == (0, 10)
    assert Study.from_dict(json.loads(json.dumps(study.as_dict()))) == study


def test_no_tpm_is_needed_where_nothing_is_chosen_by_it(tmp_path: Path) -> None:
    arms = [{"kind": "skip", "layers": ["res1_conv1"], "partition": "random:SEED"}]
    plain: dict[str, Any] = {"window": None, "interval": None}
    study = read_study(write_study(tmp_path, arms=arms, num_splits=None, controls={"random": "first"}, **plain))
    assert study.window is None and study.random == ()
    arms = [{"kind": "skip", "choose_by": "random:SEED", "partition": "score:snip", "calibrate": 3}]
    study = read_study(write_study(tmp_path, arms=arms, **plain))
    options = study.arms[0].options(7)
    assert study.window is None
    assert (options.choose_by, options.partition, options.calibrate) == ("random:7", "score:snip", 3)


def test_only_arms_that_need_tpm_have_windows(tmp_path: Path) -> None:
    """Rounds of an arm that chooses by something else are not measured, and so do not overlap with those of another."""
    tpm = {"name": "tpm", "kind": "residual", "rounds": [20]}
    other = {"name": "other", "kind": "residual", "choose_by": "snip", "partition": "score:snip", "rounds": [15]}
    study = read_study(write_study(tmp_path, engine="torch", arms=[tpm, other]))
    assert study.windows == [(0, 10), (10, 20)]
    assert [stage.window for arm in study.arms for stage in stages_of(study, arm)] == [(0, 10), (10, 20), None, None]


WRONG: list[tuple[dict[str, Any], str]] = [
    ({"seed": 3}, "the study: unknown key 'seed'; did you mean 'seeds'?"),
    (
        {"arms": [{"kind": "residul"}]},
        f"kind: 'residul' is none of {', '.join(KIND_NAMES)}; did you mean 'residual'?",
    ),
    ({"arms": [{"kind": "skip", "branchnorm": True}]}, "unknown key 'branchnorm'; did you mean 'branch_norm'?"),
    ({"arms": [{"kind": "skip"}, {"kind": "skip"}]}, "two arms are named 'skip'"),
    ({"arms": [{"kind": "skip", "name": "continue"}]}, "'continue' is the name of a control"),
    ({"arms": [{"kind": "skip", "partition": "medium"}]}, "arm 1: partition: "),
    ({"arms": [{"kind": "skip", "choose_by": "snap"}]}, "arm 1: choose_by: choose-by 'snap': 'snap' is not known"),
    ({"arms": [{"kind": "skip", "choose_by": "snip", "layers": ["a"]}], "num_splits": None}, "names them: give one"),
    ({"arms": [{"kind": "skip", "layers": ["a"], "num_splits": 1}]}, "give either layers or num_splits"),
    ({"controls": {"random": ["aded"]}}, "controls: random: 'aded' is none of added; did you mean 'added'?"),
    ({"controls": {"rates": [2.0000001, 2]}}, "controls: rates: expected different numbers"),
    ({"controls": {"rates": [2, 1]}}, "controls: rates: expected different numbers, none of them 0 or 1"),
    ({"arms": [{"kind": "skip", "name": "rate-2"}]}, "'rate-2' is the name of a control"),
    ({"controls": {"continue": False}}, "controls: unknown key 'continue'"),
    ({"window": "0:11"}, "window: '0:11' is not START:STOP in quotes with START < STOP <= 10"),
    ({"precision": "bf16"}, "precision: 'bf16' is for engine: torch; Caffe has one precision"),
    ({"seeds": [1, 2, 1]}, "seeds: a seed is given twice: 1, 2, 1"),
    ({"seeds": [1, True]}, "seeds: expected a whole number of 0 or more, found True"),
    (
        {"seeds": {"added": [1], "continue": [2]}},
        "or a list of them that all runs share, since runs of a seed are pairs",
    ),
    ({"seeds": [1, 2**32 + 1]}, "seeds: expected seeds of at most 2147483647, found 4294967297"),
    ({"seeds": "1-5"}, "seeds: expected a number of seeds, or a list of them"),
    ({"seeds": 10**9}, "seeds: 1000000000 seeds; expected at most 10,000"),
    ({"name": 5}, "name: expected a name, found 5; put it in quotes"),
    ({"arms": [{"kind": "skip", "name": False}]}, "arm False: name: expected a name, found False; put it in quotes"),
    ({"make_data": "mnist"}, "make_data: 'mnist' is none of digits"),
    ({"solver": "a\0"}, "solver: expected a path, found 'a\\x00': "),
    (
        {"root": "a" * 300},
        "root: expected a path, found 'aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa': File name too long",
    ),
    ({"solver": ""}, "solver: it names no file"),
    (
        {"arms": [{"kind": "residual", "skip_pool": "average"}]},
        "arm 1: skip_pool: nothing in this arm reads it; it is for the kinds skip and identity: leave it out",
    ),
    (
        {"arms": [{"kind": "skip", "residual_activation": "relu"}]},
        "arm 1: residual_activation: nothing in this arm reads it; it is for the kind residual",
    ),
    (
        {"arms": [{"kind": "skip", "calibrate": 3}]},
        "arm 1: calibrate: nothing in this arm reads it; it is for branch_norm: true, and choose_by and partition by",
    ),
    (
        {"arms": [{"kind": "skip", "layers": ["a"], "calibrate": 3}], "num_splits": None},
        "arm 1: calibrate: nothing in this arm reads it",
    ),
    (
        {"arms": [{"kind": "skip", "choose_by": "random:1", "partition": "all"}], "interval": None},
        "window: it is of TPM, and no arm chooses layers or kernels by that: leave it out",
    ),
    (
        {"arms": [{"kind": "skip", "choose_by": "random:1", "partition": "all"}], "window": None},
        "interval: it is of TPM, and no arm chooses layers or kernels by that: leave it out",
    ),
    ({"lr": 3}, "the study: unknown key 'lr'; known: name, solver, "),
    ({"seeds": 0}, "seeds: expected a number of seeds, or a list of them"),
    ({"arms": [{"kind": "skip", "seeds": [1]}]}, "arm 1: seeds: an arm has no seeds of its own"),
    (
        {"interval": 10},
        "window: 0:10 is one step of TPM (interval 10), which then is 1 for each kernel; choose a smaller",
    ),
    ({"rehearsal": "1/32"}, "rehearsal: expected schedule: restart, in which only ends are compared; found continue"),
    ({"rehearsal": 3, "schedule": "restart"}, "rehearsal: expected a scale above 0 and at most 1"),
    ({"rehearsal_batch": 8}, "rehearsal_batch: it has no meaning without the key `rehearsal`, a scale"),
    (
        {"rehearsal": "1/2", "rehearsal_batch": 0, "schedule": "restart"},
        "rehearsal_batch: expected a whole number of 1 or more",
    ),
    ({"compare": ["added"]}, "compare: expected runs with the runs they are compared with"),
    ({"compare": {"aded": "added"}}, "compare: 'aded' is none of continue, added; did you mean 'added'?"),
    ({"compare": {"added": "added"}}, "compare: added: added and added are compared already, or are one run"),
    ({"compare": {"added": "continue"}}, "compare: added: added and continue are compared already"),
    ({"compare": {"continue": "added"}}, "compare: continue: continue and added are compared already"),
    (
        {"controls": {"random": "first"}, "compare": {"random-added": "added"}},
        "compare: random-added: random-added and added are compared already",
    ),
    (
        {
            "arms": [{"kind": "skip"}, {"kind": "residual"}],
            "compare": {"skip": "residual", "residual": "skip"},
        },
        "skip and residual are compared already",
    ),
    ({"controls": {"random": ["added", "added"]}}, "controls: random: arm added is named twice"),
    ({"controls": {"wider": ["added", "added"]}}, "controls: wider: arm added is named twice"),
    ({"split": True}, "split: expected a whole number of 1 or more, found True"),
    ({"split": None}, "the study: 'split' is missing"),
    ({"arms": [{"kind": "skip", "rounds": [10]}]}, "arm skip: rounds: expected rising iterations after"),
    ({"arms": [{"kind": "skip", "rounds": [20, 15]}]}, "found [20, 15], continue"),
    ({"arms": [{"kind": "skip", "rounds": [20]}], "schedule": "restart"}, "found [20], restart"),
    ({"arms": [{"kind": "skip", "rounds": [20]}]}, "Caffe begins its data at the first record in every round"),
    ({"arms": [{"kind": "skip", "partition": "random:SEED"}], "controls": {"random": ["skip"]}}, "has partition"),
    ({"arms": [{"kind": "skip", "rounds": [20], "layers": ["conv1"]}], "num_splits": None}, "give num_splits"),
    (
        {
            "arms": [{"kind": "skip", "rounds": [20]}, {"name": "b", "kind": "skip", "rounds": [15, 20]}],
            "engine": "torch",
            "interval": 1,
        },
        "the windows 10:15 and 10:20, from a split to the next one of its arm, overlap",
    ),
    ({"arms": [{"kind": "skip", "name": "continue2"}]}, "'continue2' is the name of a control"),
    ({"arms": [{"kind": "skip", "after": "b"}], "schedule": "restart"}, "arm skip: after: 'b' is none of "),
    (
        {"arms": [{"kind": "skip"}, {"kind": "residual", "after": "skip"}]},
        "arm residual: after: expected schedule: restart, found continue; with it, give rounds",
    ),
    (
        {
            "arms": [{"kind": "skip", "num_splits": 1}, {"kind": "dbb", "after": "skip", "layers": ["conv1"]}],
            "num_splits": None,
            "schedule": "restart",
        },
        "arm dbb: after: a later round chooses among other layers: give num_splits",
    ),
    (
        {
            "arms": [{"kind": "skip"}, {"kind": "dbb", "after": "skip"}],
            "schedule": "restart",
            "controls": {"wider": ["dbb"]},
        },
        "controls: wider: arm dbb splits a net that is split",
    ),
    ({"scale": "1/100"}, "scale: at scale 1/100 the start (0) and the split (10) both fall on iteration 0"),
    ({"scale": 2}, "scale: expected a scale above 0 and at most 1"),
    ({"expect": {"x": {"records": 0}}}, "expect: x: records: expected a whole number of 1 or more"),
    ({"expect": {"x": {"records": 9, "mean": 3}}}, "expect: x: mean: expected a list, a number per channel"),
    ({"expect": {"x": {"record": 9}}}, "expect: x: unknown key 'record'; did you mean 'records'?"),
    ({"interval": 3}, "interval: 3 does not divide the window 0:10, whose end is to be a sample"),
    ({"tests": -1}, "tests: expected a whole number of 0 or more"),
    ({"schedule": "resume"}, "schedule: 'resume' is none of continue, restart"),
    ({"arms": [{"kind": "skip", "noise": -1}]}, "noise: expected a number from 0 to less than 10, found -1"),
    ({"arms": [{"kind": "skip", "added_lr": "half"}]}, "added_lr: expected a number from 0 to less than 1000"),
]


@pytest.mark.parametrize(("changes", "said"), WRONG, ids=[said for _, said in WRONG])
def test_what_is_wrong_is_said_in_a_line(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    file = write_study(tmp_path, **changes)
    with pytest.raises(CaffeSplitError) as caught:
        read_study(file)
    assert str(caught.value).startswith(f"{file}: ") and said in str(caught.value) and "\n" not in str(caught.value)


def test_an_arm_may_choose_its_own_layers(tmp_path: Path) -> None:
    arms = [{"kind": "skip", "layers": ["conv1"]}, {"kind": "residual", "num_splits": 3}, {"kind": "extension"}]
    read = read_study(write_study(tmp_path, arms=arms)).arms
    assert [(arm.layers, arm.num_splits) for arm in read] == [(("conv1",), 0), ((), 3), ((), 2)]


def test_a_page_that_is_in_the_way_is_seen_first(tmp_path: Path) -> None:
    pytest.importorskip("snakemake")
    (tmp_path / "tiny.md").write_text("notes")
    words = ["study", write_study(tmp_path, engine=HERE), "--out", "out", "--publish", "."]
    said = caffe_split(*words, cwd=tmp_path, status=1).stderr
    assert said == "caffe-split: tiny.md is not a study's page; nothing is overwritten unasked.\n"
    assert not (tmp_path / "out").exists()


def test_without_its_libraries(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = write_study(tmp_path)
    monkeypatch.setitem(sys.modules, "yaml", None)
    with pytest.raises(CaffeSplitError, match=r"pip install pyyaml snakemake"):
        read_study(file)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("seeds: [1, 2\narms: }", "not YAML: .*line 2"),
        (
            "split: 5\nseeds: 3\nsplit: 6",
            "line 3: the key 'split' is given twice, first in line 1; leave one of them out",
        ),
        ("split: 5\n'split': 6", "line 2: the key 'split' is given twice"),
        ("arms: [{name: a, noise: 0.1, noise: 0.0}]", "line 1: the key 'noise' is given twice, first in line 1"),
        ("arms:\n- kind: skip\n- &a\n  kind: skip\n  kind: dbb\n- *a", "line 5: the key 'kind' is given twice"),
        ("seeds: 0x_", "not YAML: a value is not of its type .*; put it in quotes"),
        ("seeds: !!int x", "not YAML: a value is not of its type"),
        ("seeds: !!timestamp x", "not YAML: a value is not of its type"),
        ("seeds: " + 5000 * "[", "nested too deeply"),
        ("seeds: \x01", "not YAML: .*special characters"),
        ("", "expected keys with values, found None"),
    ],
)
def test_what_is_no_yaml(tmp_path: Path, text: str, said: str) -> None:
    file = tmp_path / "s.yaml"
    file.write_text(text)
    with pytest.raises(CaffeSplitError, match=said) as caught:
        read_study(file)
    assert "\n" not in str(caught.value)


def test_keys_may_be_taken_from_elsewhere_in_the_file(tmp_path: Path) -> None:
    """What a mapping has itself goes before what it takes with `<<`; that is no key given twice."""
    file = write_study(tmp_path)
    text = file.read_text()
    start = text.index("arms:\n")
    arms = "arms:\n- &first {name: a, kind: skip, noise: 1e-3}\n- {<<: *first, name: 2026-13-45, noise: 0.5}\n"
    file.write_text(arms + text[:start] + text[text.index("controls:") :])
    first, second = read_study(file).arms
    assert (first.noise, second.name, second.kind, second.noise) == (0.001, "2026-13-45", "skip", 0.5)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"make_data": None}, "digits_train_lmdb is not there; make it with `caffe-split data`"),
        ({"solver": "solvr.prototxt"}, "solvr.prototxt is not there"),
        ({"solver": "."}, " is a folder; name the solver's file in it"),
        ({"split": 30, "window": None}, "max_iter is 30, so nothing is left after the split at 30"),
        ({"arms": [{"kind": "skip", "layers": ["conv9"]}], "num_splits": None}, "arm skip: layer 'conv9' cannot"),
        (
            {"arms": [{"kind": "skip", "rounds": [20, 30]}], "engine": "torch"},
            "a round at 30 is not before the end at 30",
        ),
        ({"split": 35, "schedule": "restart", "window": None}, "max_iter is 30, before the split at 35; split earlier"),
        ({"arms": [{"kind": "skip", "partition": "list:99"}]}, "arm skip: conv1: partition list:99 does not fit; give"),
        (
            {
                "arms": [{"kind": "skip", "partition": "list:0,20", "layers": ["conv1"]}],
                **dict.fromkeys(("num_splits", "window", "interval")),
            },
            "arm skip: conv1: partition list:0,20 does not fit; give different indices of 0..15",
        ),
        ({"root": "."}, "its net digits/train_val.prototxt is not there"),
        (
            {"arms": [{"kind": "skip", "rounds": [14, 17]}], "engine": "torch", "interval": 1},
            "nothing is tested in the training of arm skip@2, 14 to 17; test more often",
        ),
        ({"num_splits": 40}, "arm added: num_splits is 40, and the net has 9 convolutions that can be split: conv1, "),
    ],
)
def test_what_is_not_there_is_said_before_anything_runs(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    pytest.importorskip("snakemake")
    result = caffe_split("study", write_study(tmp_path, **changes), "--out", "out", cwd=tmp_path, status=1)
    assert said in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("expect", "said"),
    [
        ({"digits_train_lmdb": {"records": 12, "mean": [30.0]}}, ""),
        ({"digits_train_lmdb": {"records": 13}}, "digits_train_lmdb: 12 records, and {file} is about 13: another data"),
        (
            {"digits_train_lmdb": {"records": 12, "mean": [29.8]}},
            "mean of its channels is 30.0, and {file} expects 29.8",
        ),
        ({"digits_train_lmdb": {"records": 12, "mean": [1, 2]}}, "has 1 channels, expected 2"),
        ({"cifar_lmdb": {"records": 12}}, "expect: cifar_lmdb: the net has no data set of that name; it has digits_"),
        ({"digits_test_lmdb": {"records": 1}}, ""),  # not made yet
    ],
)
def test_other_data_than_the_studys_are_seen(tmp_path: Path, expect: dict[str, Any], said: str) -> None:
    images = [np.full((1, 8, 8), 25 + number % 2 * 10, np.uint8) for number in range(12)]
    write_store(tmp_path / "data/digits_train_lmdb", [(image, 0) for image in images])
    study = read_study(write_study(tmp_path, expect=expect))
    if not said:
        check_data(study)
        return
    with pytest.raises(CaffeSplitError) as caught:
        check_data(study)
    assert said.format(file=study.file) in str(caught.value)


def test_a_folder_that_is_no_data_set_is_seen(tmp_path: Path) -> None:
    pytest.importorskip("snakemake")
    for name in ("digits_train_lmdb", "digits_test_lmdb"):
        (tmp_path / "data" / name).mkdir(parents=True)
    said = refused(tmp_path)
    assert "tiny.yaml: data: " in said and "seen from" not in said
    assert (
        f"no data set '{tmp_path}/data/digits_train_lmdb' (LMDB; there is a folder of that name that is none) (and 1 "
        "more); see the keys `root` and `data`"
    ) in said


def refused(folder: Path, *options: str, **changes: Any) -> str:
    said = caffe_split("study", write_study(folder, **changes), "--out", "out", *options, cwd=folder, status=1).stderr
    assert said.count("\n") == 1 and not (folder / "out").exists()
    return said


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"multistep"', '"poly"', "lr_policy poly takes its rates from max_iter"),
        ("test_interval: 10", "test_interval: 20", "test_interval is 20, so that nothing is tested at the end, at 30"),
        ("base_lr:", 'weights: "a.caffemodel" base_lr:', "weights: a study trains its baselines from their fillers"),
        ("test_interval: 10", "", "test_interval is 0, so that nothing is tested at the end, at 30"),
        (
            "test_interval: 10",
            "test_interval: 15 test_initialization: false",
            "nothing is tested in the training of the baseline, 0 to 10",
        ),
    ],
)
def test_solvers_whose_runs_cannot_be_compared_are_refused(tmp_path: Path, old: str, new: str, said: str) -> None:
    pytest.importorskip("snakemake")
    solver = write_study(tmp_path).with_name("solver.prototxt").rename(tmp_path / "other.prototxt")
    edit(solver, old, new)
    assert said in refused(tmp_path, solver=solver.name)


def edit(path: Path, old: str, new: str) -> None:
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))


@pytest.fixture
def own_net(tmp_path: Path) -> Path:
    """A copy of the net that a study in the folder is of."""
    pytest.importorskip("snakemake")
    (tmp_path / "digits").mkdir()
    net = tmp_path / "digits/train_val.prototxt"
    net.write_text((ROOT / "prototxt/digits/train_val.prototxt").read_text())
    return net


def test_two_data_sets_that_would_be_one_are_refused(tmp_path: Path, own_net: Path) -> None:
    edit(own_net, '"data/digits_train_lmdb"', '"train/lmdb"')
    edit(own_net, '"data/digits_test_lmdb"', '"test/lmdb"')
    said = refused(tmp_path, root=".")
    assert "data: train/lmdb and test/lmdb of " in said and "would both be " in said and said.count("\n") == 1
    edit(own_net, '"test/lmdb"', '"./train/lmdb"')
    study_net(read_study(write_study(tmp_path, root=".")))


def test_a_solver_with_a_test_net_of_its_own_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("snakemake")
    solver = write_study(tmp_path).with_name("solver.prototxt").rename(tmp_path / "other.prototxt")
    solver.write_text(solver.read_text() + 'test_net: "test.prototxt"\n')
    assert "needs a solver that names one net for training and testing" in refused(tmp_path, solver=solver.name)


def test_a_net_that_tells_no_accuracy_is_refused(tmp_path: Path, own_net: Path) -> None:
    edit(own_net, 'type: "Accuracy"', 'type: "ArgMax"')
    edit(own_net, 'top: "accuracy"', 'top: "guess"')
    said = refused(tmp_path, root=".")
    assert "no Accuracy layer, and a study compares test accuracies" in said


def test_a_net_without_a_wider_one_is_refused(tmp_path: Path, own_net: Path) -> None:
    text = own_net.read_text()
    start = text.index('name: "res1_conv1"')
    own_net.write_text(text[:start] + text[start:].replace("num_output: 16", "num_output: 16 group: 2", 1))
    settings = {"root": ".", "num_splits": None, "controls": {"wider": "first", "random": "none"}}
    said = refused(tmp_path, arms=[{"kind": "skip", "layers": ["res1_conv1"]}], **settings)
    assert "controls: wider-skip: " in said and "none of res1_conv1 can be given more kernels" in said


def test_a_file_in_the_place_of_the_pages_is_seen_first(tmp_path: Path) -> None:
    pytest.importorskip("snakemake")
    assert "tiny.yaml: --publish names a folder, and this is a file" in refused(
        tmp_path, "--publish", "tiny.yaml", engine=HERE
    )


def test_a_round_whose_window_was_not_measured_is_refused(tmp_path: Path) -> None:
    """Where a baseline was begun without it, trained to its end or not."""
    arm = {"name": "added", "kind": "residual"}
    begun = read_study(write_study(tmp_path, engine="torch", arms=[arm]))
    twice = {"name": "twice", "kind": "skip", "rounds": [20]}
    later = read_study(write_study(tmp_path, engine="torch", arms=[arm, twice]))
    write_json(tmp_path / PLAN, {"study": begun.as_dict(), "inputs": {}})
    check_same(later, {}, tmp_path)
    net = tmp_path / "s5/baseline/train_val.prototxt"
    net.parent.mkdir(parents=True)
    plain = ROOT / "prototxt/digits/train_val.prototxt"
    for windows, refused in (((0, 10), True), ((0, 10, 10, 20), False)):
        pairs = tuple(zip(windows[::2], windows[1::2]))
        document = prototxt.read(plain)
        add_watchers(document, {"conv1": (16, 1, 3, 3)}, Windows(pairs, 5))
        net.write_bytes(document.to_bytes())
        check_same(begun, {}, tmp_path)
        if refused:
            with pytest.raises(CaffeSplitError, match="the baseline of seed 5 was begun without TPM over 10:20, which"):
                check_same(later, {}, tmp_path)
        else:
            check_same(later, {}, tmp_path)


def test_a_rehearsal_goes_on_with_the_same_batches(tmp_path: Path) -> None:
    changes = {"schedule": "restart", "rehearsal": "1"}
    study = read_study(write_study(tmp_path), {**changes, "rehearsal_batch": 4})
    write_json(tmp_path / PLAN, {"study": study.as_dict()})
    check_same(study, {}, tmp_path)
    with pytest.raises(CaffeSplitError, match="its runs have another `rehearsal_batch`; choose another --out"):
        check_same(read_study(study.file, changes), {}, tmp_path)


def test_a_plan_of_another_version_is_refused(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    plan = study.as_dict()
    plan["arms"][0]["mystery"] = 3
    write_json(tmp_path / PLAN, {"study": plan})
    with pytest.raises(CaffeSplitError, match="a plan of another version; choose another --out"):
        check_same(study, {}, tmp_path)


def test_controls_are_checked_before_the_data_are_made(tmp_path: Path) -> None:
    pytest.importorskip("snakemake")
    file = write_study(tmp_path, engine=HERE, controls={"random": "first", "wider": "first"})
    said = caffe_split("study", file, "--dry-run", cwd=tmp_path).stdout
    assert "no estimate before the data are made" in said and "s3.wider-added.train" in said


def test_the_folder_of_a_study_of_another_name_is_refused(tmp_path: Path) -> None:
    """Also where all else is alike: the plan and the table would be lost."""
    pytest.importorskip("snakemake")
    study = read_study(write_study(tmp_path, engine=HERE))
    out = tmp_path / "out"
    write_json(out / PLAN, {"study": study.as_dict(), "inputs": {}})
    check_same(study, {}, out)
    other = write_study(tmp_path, engine=HERE, name="other")
    with pytest.raises(CaffeSplitError, match=r"the folder of the study tiny, .* is other; .*or write `name: tiny`"):
        check_same(read_study(other), {}, out)
    before = (out / PLAN).read_bytes()
    for words in ([], ["--dry-run"], ["--no-run"]):
        said = caffe_split("study", other, "--out", "out", *words, cwd=tmp_path, status=1).stderr
        assert "it is the folder of the study tiny" in said
    assert (out / PLAN).read_bytes() == before


def test_a_folder_begun_before_an_option_came_goes_on(tmp_path: Path) -> None:
    study = read_study(write_study(tmp_path))
    before = study.as_dict()
    for arm in before["arms"]:
        del arm["added_lr"], arm["rounds"]
    for key in ("rates", "compare", "earlier", "rehearsal", "only"):
        del before[key]
    write_json(tmp_path / PLAN, {"study": before})
    check_same(study, {}, tmp_path)
    other = read_study(write_study(tmp_path, arms=[{"name": "added", "kind": "residual", "added_lr": 0.1}]))
    with pytest.raises(CaffeSplitError, match="its arm added is another"):
        check_same(other, {}, tmp_path)


def test_a_folder_begun_with_options_that_nothing_reads_goes_on_without_them(tmp_path: Path) -> None:
    arms = [{"name": "added", "kind": "residual", "choose_by": "random:SEED", "partition": "random:SEED"}]
    study = read_study(write_study(tmp_path, arms=arms, window=None, interval=None))
    before = study.as_dict()
    before["interval"] = 5
    before["arms"][0].update(skip_pool="average", calibrate=7)
    write_json(tmp_path / PLAN, {"study": before})
    check_same(study, {}, tmp_path)
    before["arms"][0].update(residual_activation="relu")
    write_json(tmp_path / PLAN, {"study": before})
    with pytest.raises(CaffeSplitError, match="its arm added is another"):
        check_same(study, {}, tmp_path)


def test_a_store_that_cannot_be_read_is_refused(tmp_path: Path) -> None:
    """Anything may lie in the place of a data set; to read a file that is cut short would end the process."""
    path = tmp_path / "data/digits_train_lmdb"
    study = read_study(write_study(tmp_path, expect={path.name: {"records": 12}}))
    write_store(path, [(np.zeros((3, 32, 32), np.uint8), 0)] * 12)
    check_data(study)
    data = (path / "data.mdb").read_bytes()
    (path / "data.mdb").unlink()
    with pytest.raises(CaffeSplitError, match=r"digits_train_lmdb: no LMDB that can be read"):
        check_data(study)
    (path / "data.mdb").write_bytes(data[: len(data) // 2])
    with pytest.raises(CaffeSplitError, match=r"digits_train_lmdb: data.mdb has .* bytes of .*: it is cut short"):
        check_data(study)
    other = tmp_path / "other/digits_train_lmdb"
    other.mkdir(parents=True)
    with lmdb.open(str(other)) as store, store.begin(write=True) as transaction:
        transaction.put(b"0", b"no datum")
    expect = {path.name: {"records": 1, "mean": [0]}}
    with pytest.raises(CaffeSplitError, match=r"digits_train_lmdb: record b'0': .* is no Datum"):
        check_data(read_study(write_study(tmp_path, data="other", make_data=None, expect=expect)))


@pytest.mark.parametrize("file", sorted((ROOT / "studies").glob("*.yaml")), ids=lambda path: path.name)
def test_the_studies_of_the_repository_can_be_read(file: Path) -> None:
    from caffe_split.study.nets import study_net
    from caffe_split.study.plan import steps_of

    study = read_study(file)
    # What is to say something has all controls. A wider net has no split snapshot from which it could begin anew.
    assert len(study.seeds) >= 5 and study.random and (study.wider or study.schedule == "restart")
    study_net(study)
    titles = [step.title for step in steps_of(study)]
    assert len(set(titles)) == len(titles)
