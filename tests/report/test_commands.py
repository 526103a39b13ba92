"""The commands of a report's page run as they stand, whatever the net and however its layers were chosen."""

from __future__ import annotations

import shlex
import shutil
from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from caffe_split.formats.weights.solverstate import SolverState, write_solverstate
from caffe_split.report.runs import read_runs
from caffe_split.report.sections import command_lines
from tests.report.made_runs import write_run
from tests.support import caffe_split

SETTINGS = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 80 snapshot_prefix: "s" test_iter: 1 test_interval: 1 '
CONV = 'layer { name: "c" type: "Convolution" bottom: "x" top: "c" convolution_param { num_output: 4 kernel_size: 3 } }'
DATA = 'layer { name: "d" type: "Input" top: "x" %s input_param { shape { dim: 2 dim: 2 dim: 4 dim: 4 } } }\n'
PLAIN = DATA % "" + CONV


def commands(
    folder: Path, solver: str, options: cs.DeriveOptions, nets: dict[str, str], at: int = 80
) -> list[list[str]]:
    """The words of the commands for a run derived in `folder` from a training's snapshot of iteration `at`."""
    draw = np.random.default_rng(0)
    for each in range(0, 81, 10):
        weights = [draw.normal(size=(4, 2, 3, 3)), np.ones(4)]
        cs.write_weights(f"s_iter_{each}.caffemodel", {"c": weights, **({"gone": weights} if each == 80 else {})})
    for name, text in nets.items():
        Path(f"{name}.prototxt").write_text(text)
    Path("s.prototxt").write_text(SETTINGS + solver)
    cs.derive(cs.open_training("s.prototxt"), at, layers=["c"], options=options, out="d").write()
    Path("d/train.log").write_bytes((write_run(folder / "log", 0.0).folder / "train.log").read_bytes())
    lines = command_lines(read_runs([Path("d")], lambda text: None), Path("report.html"))
    return [shlex.split(line)[1:] for line in lines if line.startswith("caffe-split ")]


@pytest.mark.usefixtures("any_backend")
@pytest.mark.parametrize(
    ("solver", "nets"),
    [
        ('net: "n.prototxt"', {"n": PLAIN}),
        (f"net_param {{ {PLAIN} }}", {}),
        (
            'net: "n.prototxt" train_state { stage: "a" } test_state { stage: "b" }',
            {"n": DATA % 'include { stage: "a" }' + DATA % 'include { stage: "b" }' + CONV},
        ),
        (
            'train_net: "train.prototxt" test_net: "test.prototxt"',
            {name: DATA % f"include {{ phase: {name.upper()} }}" + CONV for name in ("train", "test")},
        ),
    ],
    ids=["plain", "within the solver", "stages", "a net for each phase"],
)
def test_the_commands_run(solver: str, nets: dict[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """TPM is of the snapshots, over the window of the split: the net has no TPM layers."""
    monkeypatch.chdir(tmp_path)
    options = cs.DeriveOptions(window=(0, 80), ignore_extra_weights=True)
    tpm, derive, verify, train = commands(tmp_path, solver, options, nets)[:4]
    assert tpm == ["tpm", "s.prototxt", "--iter", "80", "--window", "0:80"]
    assert derive[:2] == ["make-derived", "s.prototxt"] and train == ["train", "d/s.prototxt"]
    for words in (tpm, verify):
        caffe_split(*words, cwd=tmp_path)
    shutil.rmtree("d")
    caffe_split(*derive, cwd=tmp_path)


def test_a_run_that_continues_the_schedule_is_trained_from_its_state(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    write_solverstate("s_iter_40.solverstate", SolverState(40, "", 0, [np.zeros((4, 2, 3, 3)), np.zeros(4)]))
    options = cs.DeriveOptions(partition="random:0", schedule="continue")
    train = commands(tmp_path, 'net: "n.prototxt"', options, {"n": PLAIN}, 40)[2]
    assert train == ["train", "d/s.prototxt", "--snapshot", "d/init.solverstate"]
    assert Path(train[-1]).is_file()


def test_without_scores_no_tpm_is_shown_and_the_forks_schema_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    options = cs.DeriveOptions(partition="random:0", ignore_extra_weights=True)
    derive, verify = commands(tmp_path, 'net: "n.prototxt"', options, {"n": PLAIN})[:2]
    assert derive[0] == "make-derived"
    assert verify == ["verify", "s.prototxt", "d/s.prototxt", "--ignore-extra-weights"]
    for words in (["--caffe-proto", "fork.proto"], ["--caffe-proto=fork.proto"]):
        text = Path("d/manifest.json").read_text()
        named = text.replace('"make-derived"', ", ".join(f'"{word}"' for word in ("make-derived", *words)))
        Path("d/manifest.json").write_text(named)
        lines = command_lines(read_runs([Path("d")], lambda text: None), Path("report.html"))
        shown = shlex.join(["caffe-split", *verify, *words])
        assert shown in lines
        Path("d/manifest.json").write_text(text)
