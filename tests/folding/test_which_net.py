"""`fold` and `verify` on nets whose stages only a solver says, and on solvers with a net for each phase."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import caffe_split as cs
from tests.support import caffe_split

pytestmark = pytest.mark.usefixtures("any_backend")

DATA = (
    'layer { name: "d" type: "Input" top: "x" include { %s } input_param { shape { dim: %d dim: 2 dim: 4 dim: 4 } } }\n'
)
CONV = """layer { name: "c" type: "Convolution" bottom: "x" top: "c"
        convolution_param { num_output: 4 kernel_size: 3 } }
"""
STAGES = DATA % ('stage: "a"', 3) + DATA % ('stage: "b"', 2) + CONV
OPTIONS = cs.DeriveOptions(partition="list:0,1")
SETTINGS = 'base_lr: 0.1 lr_policy: "fixed" max_iter: 1 snapshot_prefix: "s" test_iter: 1 test_interval: 1 '


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The current directory, with weights of the convolution."""
    monkeypatch.chdir(tmp_path)
    cs.write_weights("w.caffemodel", {"c": [np.random.default_rng(0).normal(size=(4, 2, 3, 3)), np.ones(4)]})
    return tmp_path


def derive(solver: str, **nets: str) -> None:
    """The files of a training, and those derived from it in `d`."""
    for name, text in nets.items():
        Path(f"{name}.prototxt").write_text(text)
    Path("s.prototxt").write_text(SETTINGS + solver)
    cs.derive(cs.open_training("s.prototxt"), weights="w.caffemodel", layers=["c"], options=OPTIONS, out="d").write()


def test_the_solver_beside_the_net_says_the_stages() -> None:
    derive('net: "n.prototxt" train_state { stage: "a" } test_state { stage: "b" }', n=STAGES)
    assert cs.verify("n.prototxt", "d/n.prototxt").passed
    plan = cs.fold("d/n.prototxt", "d/init.caffemodel", out="f")
    plan.write()
    assert plan.state == cs.NetState("TEST", ("b",)) and Path("f/n.prototxt").read_text() == STAGES
    # Beside the folded net there is no solver: the stages are those of the other net.
    assert cs.verify("d/n.prototxt", "f/n.prototxt").passed and cs.verify("d/s.prototxt", "f/n.prototxt").passed


def test_where_nothing_says_the_stages_the_message_does_not_advise_to_leave_the_comparison_out() -> None:
    derive('net: "n.prototxt" train_state { stage: "a" } test_state { stage: "b" }', n=STAGES)
    Path("d/s.prototxt").unlink()
    said = caffe_split("fold", "d/n.prototxt", "d/init.caffemodel", "--out", "f", cwd=Path.cwd(), status=1).stderr
    assert "n.prototxt:3: layer 'c_split1': bottom 'x' is no top of a layer above it" in said
    assert "Say the stage" in said and "--no-verify" not in said and not Path("f").exists()
    assert "wrote" in caffe_split("fold", "d/n.prototxt", "d/init.caffemodel", "--no-verify", cwd=Path.cwd()).stdout
    Path("s.prototxt").unlink()
    with pytest.raises(cs.CaffeSplitError, match=r"n.prototxt:3: layer 'c': bottom 'x' is no top"):
        cs.verify("n.prototxt", "d/n.prototxt")


def test_each_phase_has_its_own_net() -> None:
    train, test = DATA % ("phase: TRAIN", 3) + CONV, DATA % ("phase: TEST", 2) + CONV
    derive('train_net: "train.prototxt" test_net: "test.prototxt"', train=train, test=test)
    for phase, name, text in (("TEST", "test", test), ("TRAIN", "train", train)):
        state = cs.NetState(phase)
        options = cs.VerifyOptions(state=state)
        assert cs.verify("s.prototxt", "d/s.prototxt", options=options).passed
        plan = cs.fold("d/s.prototxt", "d/init.caffemodel", out=f"f{name}", options=cs.FoldOptions(state=state))
        plan.write()
        assert plan.net_path == Path(f"d/{name}.prototxt") and Path(f"f{name}/{name}.prototxt").read_text() == text
    # The test net is read: what is wrong in it alone is found.
    with Path("d/test.prototxt").open("a") as stream:
        stream.write('layer { name: "p" type: "Power" bottom: "c" top: "c" power_param { scale: 2 } }')
    assert not cs.verify("s.prototxt", "d/s.prototxt").passed


def test_a_net_within_a_solver_is_compared_with_its_derived_file() -> None:
    inner = (DATA % ("phase: TEST", 2) + DATA % ("phase: TRAIN", 3) + CONV).replace("\n", "\n  ")
    derive(f"net_param {{\n  {inner}}}")
    assert cs.verify("s.prototxt", "d/s.prototxt").passed
    with pytest.raises(
        cs.CaffeSplitError, match=r"its net stands in the solver itself, .* into s_net\.prototxt, and give"
    ):
        cs.fold("s.prototxt", "w.caffemodel", out="f")


def test_a_fold_of_a_split_net_is_no_pair_with_the_net_before_the_split() -> None:
    derive('net: "n.prototxt"', n=DATA % ("phase: TEST", 2) + DATA % ("phase: TRAIN", 3) + CONV)
    cs.fold("d/n.prototxt", "d/init.caffemodel", out="f").write()
    with pytest.raises(cs.CaffeSplitError) as refused:
        cs.verify("n.prototxt", "f/n.prototxt")
    assert str(refused.value) == (
        "d/init.caffemodel: from these weights and d/n.prototxt f/n.prototxt was made; they do not fit n.prototxt, "
        "which is another net. Give d/n.prototxt as the BASELINE, or --baseline-weights FILE."
    )
    assert cs.verify("d/n.prototxt", "f/n.prototxt").passed
    assert cs.verify("n.prototxt", "f/n.prototxt", baseline_weights="w.caffemodel").passed
