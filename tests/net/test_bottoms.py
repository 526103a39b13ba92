"""Bottoms that no layer above gives, and where they would be given."""

from __future__ import annotations

import pytest

from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.bottoms import check_bottoms, lacking_bottoms
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TEST, TRAIN, NetState

# The data layers of DIGITS' nets, one per stage.
STAGES = """
layer { name: "train-data" type: "Data" top: "data" top: "label" include { stage: "train" } }
layer { name: "val-data" type: "Data" top: "data" top: "label" include { phase: TEST stage: "val" stage: "more" } }
layer { name: "new" type: "Input" top: "data" include { min_level: 3 } include { not_stage: "train" max_level: -1 } }
layer { name: "noise" type: "Dropout" bottom: "data" top: "data" exclude { phase: TEST } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "conv" bottom: "lable" exclude { stage: "val" } }
"""


def found(text: str, state: NetState) -> list[tuple[str, str]]:
    document = prototxt.parse(text, "net")
    return [(each.layer.name, each.text) for each in lacking_bottoms(document, phase_layers(document, state))]


def test_layers_of_other_states_that_give_a_bottom_are_named_with_these_states() -> None:
    said = (
        "bottom 'data' is no top of a layer above it in this phase; layer 'train-data' of line 2 gives it with stage "
        "train; layer 'val-data' of line 3 gives it in phase TEST with stage val, more; layer 'new' of line 4 gives it "
        "from level 3 or without stage train up to level -1"
    )
    lable = ("loss", "bottom 'lable' is no top of a layer above it in this phase")
    # What stands in place gives nothing; nor is what it writes lacking below it.
    assert found(STAGES, TRAIN) == [("noise", said), lable]
    assert found(STAGES, TEST) == [("conv", said), lable]
    assert found(STAGES, NetState("TRAIN", ("train",))) == found(STAGES, NetState("TRAIN", (), 3)) == [lable]
    assert found(STAGES, NetState("TEST", ("val", "more"))) == []
    # A net may stand in one line.
    assert [name for name, text in found(STAGES.replace("\n", " "), TEST) if "'new' of line 1 gives it" in text] == [
        "conv"
    ]


def test_an_exclude_is_said_and_the_order_counts() -> None:
    relu = 'layer { name: "b" type: "ReLU" bottom: "x" top: "y" }'
    text = f'layer {{ name: "a" type: "Input" top: "x" exclude {{ phase: TEST }} }} {relu}'
    ((_, said),) = found(text, TEST)
    assert said.endswith("; layer 'a' of line 1 gives it but not in phase TEST") and not found(text, TRAIN)
    below = f'{relu} layer {{ name: "a" type: "Input" top: "x" }}'
    assert [said for _, said in found(below, TRAIN)] == ["bottom 'x' is no top of a layer above it in this phase"]


def test_inputs_of_old_nets_are_given() -> None:
    assert found('input: "x" layer { name: "b" type: "ReLU" bottom: "x" top: "y" }', TEST) == []


@pytest.mark.parametrize(
    ("state", "known", "lines"),
    [
        (
            TEST,
            True,
            [
                ":6: layer 'conv': ",
                ":7: layer 'loss': ",
                "Say the stage and the level: by the option of that name, or in the solver's",
            ],
        ),
        # Whatever the stages are, nothing gives 'lable'.
        (TEST, False, [":7: layer 'loss': "]),
        (NetState("TRAIN", ("train",)), True, [":7: layer 'loss': "]),
    ],
)
def test_the_error_lists_them(state: NetState, known: bool, lines: list[str]) -> None:
    with pytest.raises(CaffeSplitError) as raised:
        check_bottoms(prototxt.parse(STAGES, "net"), state, known=known)
    head, *rest = str(raised.value).splitlines()
    assert f"Caffe does not build this net in {state.words}:" in head
    assert len(rest) == len(lines) and all(line in said for line, said in zip(lines, rest))


def test_a_net_for_one_phase_is_no_net_for_the_other() -> None:
    document = prototxt.parse(
        'layer { name: "a" type: "Input" top: "x" include { phase: TRAIN } } '
        'layer { name: "b" type: "ReLU" bottom: "x" top: "y" }',
        "net",
    )
    check_bottoms(document, TRAIN)
    check_bottoms(document, TEST, known=False)
    with pytest.raises(CaffeSplitError, match=r"gives it in phase TRAIN\nGive the net for the TEST phase.$"):
        check_bottoms(document, TEST)
