"""The net and the state of a file that a command is given: a net, with solvers beside it or none, or a solver."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from caffe_split import DeriveOptions, derive, open_training, write_weights
from caffe_split.errors import CaffeSplitError
from caffe_split.net.chosen import choose_net
from caffe_split.net.state import AskedState, NetState
from tests.support import caffe_split

DATA = 'layer { name: "d" type: "Input" top: "data" input_param { shape { dim: 1 dim: 1 dim: 2 dim: 2 } } %s }\n'
CONV = (
    'layer { name: "c" type: "Convolution" bottom: "data" top: "c"\n'
    "        convolution_param { num_output: 1 kernel_size: 1 } }\n"
)
MORE = 'layer { name: "more" type: "ReLU" bottom: "c" top: "c" include { stage: "more" } }\n'
STAGES = DATA % 'include { stage: "a" }' + DATA % 'include { stage: "b" }' + CONV


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def put(**files: str) -> None:
    for name, text in files.items():
        Path(f"{name}.prototxt").write_text(text)


def state(name: str, phase: str = "TEST", stages: tuple[str, ...] = (), level: int | None = None) -> NetState:
    return choose_net(f"{name}.prototxt", phase).state(AskedState(phase, stages, level))


def test_a_net_that_lacks_a_bottom_is_built_as_the_solver_beside_it_says() -> None:
    put(n=STAGES)
    assert state("n") == NetState("TEST")
    put(s='net: "n.prototxt" train_state { stage: "a" level: 2 } test_state { stage: "b" level: 3 }')
    assert state("n") == state("s") == NetState("TEST", ("b",), 3)
    assert state("n", "TRAIN") == state("s", "TRAIN") == NetState("TRAIN", ("a",), 2)
    # What is asked for is not the solver's, and a state that is given as a whole is taken so.
    assert state("n", stages=("a",)) == NetState("TEST", ("a",))
    assert choose_net("n.prototxt", "TEST").state(NetState("TEST", ("x",))) == NetState("TEST", ("x",))
    # Both layers of data are there without stages: Caffe takes no top from two of them.
    put(n=STAGES.replace("include", "exclude"))
    assert state("n") == NetState("TEST", ("b",), 3)


def test_a_net_that_caffe_builds_without_stages_is_built_so() -> None:
    put(n=DATA % "" + CONV + MORE, s='net: "n.prototxt" test_state { stage: "more" }')
    assert state("n") == NetState("TEST") and state("s") == NetState("TEST", ("more",))


def test_several_solvers_agree_or_are_listed() -> None:
    put(n=STAGES + MORE, s='net: "n.prototxt" test_state { stage: "a" }', t='net: "n.prototxt" base_lr: 1')
    assert state("n") == NetState("TEST", ("a",))  # the other one cannot build it
    put(t='net: "n.prototxt" base_lr: 1 test_state { stage: "a" stage: "x" }')
    assert state("n") == NetState("TEST", ("a",))  # with the same layers
    put(t='net: "n.prototxt" test_state { stage: "more" stage: "a" }')
    with pytest.raises(CaffeSplitError) as refused:
        state("n")
    assert str(refused.value) == (
        "n.prototxt: 2 solvers beside it name this net, and with their stages and levels it has other layers. Give the "
        "one that is meant in place of the net, or say the stage and the level by the options of these names:\n"
        "  s.prototxt  the TEST phase with stages a and level 0\n"
        "  t.prototxt  the TEST phase with stages more, a and level 0"
    )
    assert state("n", stages=("b",)) == NetState("TEST", ("b",))


def test_each_phase_has_its_own_net() -> None:
    put(n=STAGES, m=STAGES, s='train_net: "n.prototxt" test_net: "m.prototxt" test_iter: 1 test_state { stage: "b" }')
    assert choose_net("s.prototxt", "TRAIN").path == Path("n.prototxt")
    assert choose_net("s.prototxt", "TEST").path == Path("m.prototxt")
    assert state("m") == NetState("TEST", ("b",)) and state("n") == NetState("TEST")
    Path("m.prototxt").unlink()
    with pytest.raises(CaffeSplitError, match=r's.prototxt: test_net is "m.prototxt", which is not there seen from'):
        choose_net("s.prototxt", "TEST")
    put(s='train_net: "n.prototxt"')
    assert choose_net("s.prototxt", "TEST").path == Path("n.prototxt")


def test_states_belong_to_test_nets_in_the_order_of_caffe() -> None:
    """Those within the solver come first, then those in files, then the net that is trained."""
    states = "".join(f'test_state {{ stage: "{stage}" }} ' for stage in ("x", "a", "b"))
    put(n=STAGES, m=STAGES, s=f'net: "n.prototxt" test_net: "m.prototxt" test_net_param {{ {STAGES} }} {states}')
    assert (state("s").stages, state("m").stages, state("n").stages) == (("x",), ("a",), ("b",))


@pytest.mark.parametrize(
    ("key", "phase", "name"),
    [
        ("net_param", "TRAIN", "s_net.prototxt"),
        ("net_param", "TEST", "s_net.prototxt"),
        ("train_net_param", "TEST", "s_train_net.prototxt"),
        ("test_net_param", "TEST", "s_test0_net.prototxt"),
    ],
)
def test_a_net_within_a_solver_is_a_file_while_it_is_needed(key: str, phase: str, name: str) -> None:
    put(n=DATA % "", s=f"{key} {{ {STAGES} }} " + ('net: "n.prototxt"' if key == "test_net_param" else ""))
    chosen = choose_net("s.prototxt", phase)
    assert (chosen.file, chosen.path, chosen.key) == (Path("s.prototxt"), Path(name), key)
    with chosen.as_file() as file:
        assert file.name == name and [
            layer.get("name") for layer in choose_net(file, phase).document.subs("layer")
        ] == [
            "d",
            "d",
            "c",
        ]
    assert not file.exists() and not Path(name).exists()
    with pytest.raises(
        CaffeSplitError, match=rf"s.prototxt: its net stands in the solver itself.*within {key} {{ .* {name}"
    ):
        chosen.need_file()


def test_a_summary_of_a_solver_in_the_test_phase_is_that_of_its_test_net(here: Path) -> None:
    put(n=DATA % "include { phase: TRAIN }" + CONV, m=DATA % "" + CONV + MORE.replace("include", "exclude"))
    put(s='train_net: "n.prototxt" test_net: "m.prototxt" test_iter: 1')
    shown = {
        phase: [
            row["name"] for row in json.loads(caffe_split("summary", "s.prototxt", *words, cwd=here).stdout)["layers"]
        ]
        for phase, words in {"TRAIN": ("--json",), "TEST": ("--json", "--phase", "TEST")}.items()
    }
    assert shown == {"TRAIN": ["d", "c"], "TEST": ["d", "c", "more"]}


def test_a_layer_with_a_comma_in_its_name_can_be_named(here: Path) -> None:
    put(n=DATA % "" + CONV.replace('"c"', '"co,nv"').replace("num_output: 1", "num_output: 2"))
    write_weights("w.caffemodel", {"co,nv": [np.ones((2, 1, 1, 1)), np.ones(2)]})
    words = ("--weights", "w.caffemodel", "--layers", r"co\,nv", "--partition", "random:0", "--out", "d")
    caffe_split("make-derived", "n.prototxt", *words, cwd=here)
    assert "co,nv_split1" in Path("d/n.prototxt").read_text()
    options = DeriveOptions(partition="random:0")
    plan = derive(open_training("n.prototxt"), weights="w.caffemodel", layers=["co,nv"], options=options, out="e")
    assert plan.command[plan.command.index("--layers") + 1] == r"co\,nv"
