"""Nets of several states: the phase, the stages and the level that are asked for decide what is split."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

import caffe_split as cs
from caffe_split.cli import cli
from caffe_split.errors import CaffeSplitError, WrongUseError
from caffe_split.formats import prototxt
from caffe_split.net.state import AskedState, NetState, state_of_solver
from tests.derivation import odd
from tests.derivation.odd import convolution, input_layer

NET = (
    input_layer()
    + convolution("pre", "data", "pre")
    + convolution("c", "pre", "c", more='include { stage: "big" }')
    + convolution("narrow", "pre", "c", "num_output: 3 kernel_size: 1", more='include { not_stage: "big" }')
    + convolution("deep", "c", "d", more="include { min_level: 2 }")
    + convolution("tested", "pre", "t", more="include { phase: TEST }")
)
SOLVER = 'net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" snapshot_prefix: "s" '
BIG = NetState("TRAIN", ("big",))
BY_NAME = cs.DeriveOptions(kind="skip", partition="random:0")
EXTRA = cs.DeriveOptions(kind="skip", partition="random:0", ignore_extra_weights=True)
BY_CHANCE = cs.DeriveOptions(kind="skip", partition="random:0", choose_by="random:0")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    return tmp_path


def split(
    folder: Path, state: NetState, layers: int | list[str], solver: str | None = SOLVER, **changes: object
) -> cs.DerivePlan:
    """The plan of the net with random weights of its layers in `state`, which is asked for."""
    odd.write(folder, "net", NET, odd.random_weights(NET, state=state))
    if solver is not None:
        (folder / "solver.prototxt").write_text(solver)
    training = cs.open_training("net.prototxt").asked_for(state.phase, state.stages, state.level)
    options = BY_CHANCE if isinstance(layers, int) else BY_NAME
    return cs.derive(training, weights="net.caffemodel", layers=layers, options=options, out="d")


@pytest.mark.parametrize(
    ("state", "possible"),
    [
        (BIG, ["pre", "c"]),
        (NetState("TRAIN", ("big",), 2), ["pre", "c", "deep"]),
        (NetState("TRAIN", (), 3), ["pre", "narrow", "deep"]),
        (NetState("TEST", ("big",)), ["pre", "c", "tested"]),
    ],
)
@pytest.mark.parametrize("solver", [SOLVER, None])
def test_only_layers_of_the_state_are_chosen(
    here: Path, state: NetState, possible: list[str], solver: str | None
) -> None:
    plan = split(here, state, len(possible), solver)
    assert [layer.name for layer in plan.layers] == possible
    assert plan.as_dict()["state"] == vars(state)
    with pytest.raises(CaffeSplitError, match=f"Layers that can be split: {', '.join(possible)}"):
        split(here, state, len(possible) + 1, solver)


def test_a_layer_of_another_state_is_refused_by_the_state(here: Path) -> None:
    with pytest.raises(CaffeSplitError) as caught:
        split(here, BIG, ["narrow"])
    assert "'narrow' (line 4) is not in the net of the TRAIN phase with stages big and level 0" in str(caught.value)


def test_the_derived_solver_trains_in_the_state_that_was_asked_for(here: Path) -> None:
    state = NetState("TRAIN", ("big", "other"), 2)
    plan = split(here, state, ["c"], SOLVER + 'train_state { stage: "small" level: 1 } ')
    plan.write()
    derived = cs.open_training("d/solver.prototxt")
    assert derived.state == state
    assert "--stage big --stage other --level 2" in " ".join(plan.command)
    built = {layer.name for layer in derived.train_layers()}
    assert "c_split1" in built and "narrow" not in built
    # The same command, without words for the state, is made for a solver that has it itself.
    same = split(here, state, ["c"], SOLVER + 'train_state { stage: "big" stage: "other" level: 2 } ')
    assert not {"--phase", "--stage", "--level"} & set(same.command)


def test_the_recorded_command_makes_the_same_files(here: Path) -> None:
    plan = split(here, BIG, ["c"])
    plan.write()
    words = [*plan.command[1:-2], "--out", "again"]
    cli.main(words, standalone_mode=False)
    for name in plan.output_names():
        again = (here / "again" / name).read_bytes().replace(b"again/", b"d/")
        assert again == (here / "d" / name).read_bytes(), name
    assert json.loads((here / "again/manifest.json").read_text())["plan"]["state"]["stages"] == ["big"]


@pytest.mark.parametrize("phase", ["TRAIN", "TEST"])
def test_it_is_verified_and_folded_in_that_state(here: Path, phase: str) -> None:
    split(here, NetState(phase, ("big",)), ["c"], None).write()
    asked = AskedState(phase, ("big",))
    options = cs.VerifyOptions(engine="torch", state=asked)
    assert cs.verify("net.prototxt", "d/net.prototxt", options=options).passed
    plan = cs.fold("d/net.prototxt", "d/init.caffemodel", out="f", options=cs.FoldOptions(state=asked))
    assert plan.state == NetState(phase, ("big",))
    plan.write(check=options)
    assert (here / "f/net.prototxt").read_text() == NET


def test_a_schedule_does_not_continue_in_the_test_phase(here: Path) -> None:
    odd.write(here, "net", NET, odd.random_weights(NET))
    (here / "solver.prototxt").write_text(SOLVER)
    training = cs.open_training("net.prototxt").asked_for("TEST")
    options = cs.DeriveOptions(partition="random:0", schedule="continue")
    with pytest.raises(WrongUseError, match="--schedule continue"):
        cs.derive(training, weights="net.caffemodel", layers=["pre"], options=options, out="d")


def test_what_is_not_asked_for_is_as_the_solver_has_it() -> None:
    solver = prototxt.parse(
        'train_state { stage: "a" level: 2 } test_state { stage: "b" level: 3 } test_state { stage: "c" }',
        "solver",
        "s",
    )
    for asked, state in (
        (AskedState("TEST"), NetState("TEST", ("b",), 3)),
        (AskedState("TEST", level=0), NetState("TEST", ("b",), 0)),
        (AskedState("TRAIN", ("x",)), NetState("TRAIN", ("x",), 2)),
        (AskedState("TRAIN", ("x",), 5), NetState("TRAIN", ("x",), 5)),
    ):
        assert asked.over(state_of_solver(solver, asked.phase)) == state
    assert state_of_solver(None, "TEST") == NetState("TEST")


def odd_bottom(folder: Path, net: str, solver: str | None, change: tuple[str, str]) -> cs.Training:
    text = net.replace(*change, 1)
    weights = {**odd.random_weights(NET, state=BIG), **odd.random_weights(NET, state=NetState("TRAIN"))}
    odd.write(folder, "net", text, weights)
    (folder / "solver.prototxt").unlink(missing_ok=True)
    if solver is not None:
        (folder / "solver.prototxt").write_text(solver)
    return cs.open_training("net.prototxt")


TRAINED, TESTED = "train_state { stage: 'big' } ", "test_iter: 1 test_interval: 5 "


@pytest.mark.parametrize(
    ("solver", "change", "said"),
    [
        (None, ("", ""), None),
        (SOLVER + TRAINED, ("", ""), None),
        # Nothing gives it in any state; in TEST this counts where the net is tested.
        (None, ('bottom: "data"', 'bottom: "dta"'), "layer 'pre': bottom 'dta' is no top of a layer above it"),
        (SOLVER, ('bottom: "pre"', 'bottom: "per"'), None),
        (SOLVER + TRAINED, ('bottom: "pre"', 'bottom: "per"'), "layer 'c': bottom 'per' is no top of a layer above it"),
        (SOLVER + TRAINED, ('bottom: "pre" top: "t"', 'bottom: "per" top: "t"'), None),
        (
            SOLVER + TRAINED + TESTED,
            ('bottom: "pre" top: "t"', 'bottom: "per" top: "t"'),
            "layer 'tested': bottom 'per'",
        ),
        # It is given in another stage, which only a solver can rule out.
        (None, ('include { stage: "big" }', 'include { stage: "huge" }'), None),
        (None, ('include { not_stage: "big" }', 'include { stage: "small" }'), None),
        (
            SOLVER,
            ('top: "data"', 'top: "data" include { stage: "big" }'),
            "layer 'pre': bottom 'data' is no top of a layer above it in this phase; layer 'data' of line 1 gives it "
            "with stage big",
        ),
        (None, ('top: "data"', 'top: "data" include { stage: "big" }'), None),
    ],
)
def test_bottoms_that_caffe_would_not_find_in_the_state_given(
    here: Path, solver: str | None, change: tuple[str, str], said: str | None
) -> None:
    training = odd_bottom(here, NET, solver, change)
    for command in (
        lambda: cs.derive(training, weights="net.caffemodel", layers=["pre"], options=EXTRA, out="d"),
        lambda: cs.instrument(training, [(0, 100)]),
    ):
        refused = refusal(command)
        assert said in refused if said is not None else "is no top of" not in refused, refused


def refusal(command: Callable[[], object]) -> str:
    """What a command refuses; "" if nothing."""
    try:
        command()
    except CaffeSplitError as error:
        return str(error)
    return ""
