"""Which layers a state admits: the rules of Caffe's Net::StateMeetsRule, and where a state is written."""

from __future__ import annotations

import pytest

from caffe_split.formats import prototxt
from caffe_split.net.layers import phase_layers
from caffe_split.net.options import Options
from caffe_split.net.state import TEST, TRAIN, NetState, state_of_training, states_of_tests


@pytest.mark.parametrize(
    ("rule", "state", "met"),
    [
        ("", TEST, True),
        ("phase: TRAIN", TRAIN, True),
        ("phase: TRAIN", TEST, False),
        ("min_level: 1", TEST, False),
        ("min_level: 1", NetState(level=1), True),
        ("max_level: 1", NetState(level=1), True),
        ("max_level: 1", NetState(level=2), False),
        ("min_level: -2 max_level: -1", NetState(level=-1), True),
        ('stage: "a"', TEST, False),
        ('stage: "a" stage: "b"', NetState(stages=("b", "c", "a")), True),
        ('stage: "a" stage: "b"', NetState(stages=("a",)), False),
        ('not_stage: "a" not_stage: "b"', NetState(stages=("b",)), False),
        ('not_stage: "a"', NetState(stages=("b",)), True),
        ('phase: TEST stage: "a"', NetState("TRAIN", ("a",)), False),
    ],
)
def test_a_layer_is_in_the_net_where_its_rule_is_met_and_excluded_there(rule: str, state: NetState, met: bool) -> None:
    for key, admitted in (("include", met), ("exclude", not met)):
        net = prototxt.parse(f'layer {{ name: "x" type: "Silence" {key} {{ {rule} }} }}', kind="net")
        assert [layer.name for layer in phase_layers(net, state)] == ["x"] * admitted


def test_a_solver_says_in_which_states_its_nets_are_made() -> None:
    solver = prototxt.parse(
        'train_state { stage: "a" stage: "b" level: 2 } test_state { level: 1 } test_state { stage: "c" }', "solver"
    )
    options = Options("SolverParameter", [solver])
    assert state_of_training(options) == NetState("TRAIN", ("a", "b"), 2)
    assert states_of_tests(options) == [NetState("TEST", (), 1), NetState("TEST", ("c",))]
    silent = Options("SolverParameter", [prototxt.parse("max_iter: 1", "solver")])
    assert state_of_training(silent) == TRAIN
    assert states_of_tests(silent) == []


def test_a_state_comes_on_top_of_the_net_s_own() -> None:
    own = NetState("TRAIN", ("a",), 3)
    assert NetState("TRAIN", ("b",)).added_to(own) == NetState("TRAIN", ("a", "b"), 3)
    assert NetState("TRAIN", ("b",), 1).added_to(own) == NetState("TRAIN", ("a", "b"), 1)


def test_a_phase_alone_has_no_stages_and_level_0() -> None:
    assert NetState.of("TRAIN") == TRAIN
    assert NetState.of(TEST) is TEST
    assert NetState("TRAIN", ("a",), 2).in_phase("TEST") == NetState("TEST", ("a",), 2)
