"""Going on with the parent's schedule, with each back end: iteration, losses, history and TPM."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from caffe_split.derivation.history import _moved, learnable
from caffe_split.formats import prototxt
from caffe_split.formats.weights import caffemodel
from caffe_split.formats.weights.solverstate import read_solverstate, write_solverstate
from caffe_split.net.layers import all_layers
from caffe_split.split.partition import Partition
from caffe_split.tpm.layers import watchers
from tests.support import caffe_split, train

each_backend = pytest.mark.usefixtures("backend")

LAYERS = "conv1,res1_conv1,res2_conv2,res3_conv1,res3_proj"


def losses(log: str) -> dict[int, float]:
    return {int(i): float(v) for i, v in re.findall(r"Iteration (\d+)[^\n]*, loss = (\S+)", log)}


@pytest.fixture
def midway(digits: Path) -> Path:
    """The parent stands at iteration 50 of 100, and shows every iteration's loss from there on."""
    solver = prototxt.read(digits / "digits/solver.prototxt")
    solver.set("display", 1)
    solver.set("average_loss", 1)
    solver.set("max_iter", 80)
    solver.set("snapshot_prefix", "digits/digits")
    (digits / "digits/solver.prototxt").write_bytes(solver.to_bytes())
    return digits


def derive(folder: Path, *options: object) -> str:
    return caffe_split(
        "make-derived",
        "digits/solver.prototxt",
        "--iter",
        50,
        "--schedule",
        "continue",
        "--layers",
        LAYERS,
        "--partition",
        "random:1",
        *options,
        cwd=folder,
    ).stdout


def parent_losses(folder: Path) -> dict[int, float]:
    """Of the resumed parent, so that both read their data from its start."""
    return losses(train("digits/solver.prototxt", folder, snapshot="digits/digits_iter_50.solverstate"))


@each_backend
@pytest.mark.parametrize(
    "options",
    [
        ("--kind", "residual"),
        ("--kind", "skip", "--noise", 0),
        ("--kind", "extension"),
        ("--kind", "identity"),
        ("--kind", "conv1x1", "--partition", "all"),
    ],
    ids=str,
)
def test_the_first_loss_is_the_parents_next(midway: Path, options: tuple[object, ...]) -> None:
    said = derive(midway, *options)
    assert "train it: caffe-split train derived1/solver.prototxt --snapshot derived1/init.solverstate" in said
    ours = losses(train("derived1/solver.prototxt", midway, snapshot="derived1/init.solverstate"))
    theirs = parent_losses(midway)
    assert min(ours) == min(theirs) == 50 and max(ours) == 80
    assert ours[50] == pytest.approx(theirs[50], rel=1e-4)


@each_backend
def test_with_frozen_helpers_twenty_losses_are_the_parents(midway: Path) -> None:
    """The momentum has landed on the right kernels: without it the second loss already differs."""
    derive(midway, "--kind", "extension", "--noise", 0)
    net = prototxt.read(midway / "derived1/train_val.prototxt")
    for layer in all_layers(net):
        if layer.name.endswith(("_extension", "_reorder")):
            (spec,) = layer.message.subs("param")
            spec.set("lr_mult", 0)
            spec.set("decay_mult", 0)
    (midway / "derived1/train_val.prototxt").write_bytes(net.to_bytes())

    def resumed() -> dict[int, float]:
        return losses(train("derived1/solver.prototxt", midway, snapshot="derived1/init.solverstate"))

    ours, theirs = resumed(), parent_losses(midway)
    for iteration in range(50, 70):
        assert ours[iteration] == pytest.approx(theirs[iteration], rel=1e-4)

    state = read_solverstate(midway / "derived1/init.solverstate")
    blank = [np.zeros(values.shape, np.float32) for values in state.history]
    write_solverstate(midway / "derived1/init.solverstate", type(state)(50, state.learned_net, 0, blank))
    without = resumed()
    assert any(without[i] != pytest.approx(theirs[i], rel=1e-3) for i in range(51, 70))


def test_history_goes_kernel_by_kernel(midway: Path) -> None:
    derive(midway, "--kind", "residual")
    parts = []
    for net, weights, state in (
        ("digits/train_val.prototxt", "digits/digits_iter_50.caffemodel", "digits/digits_iter_50.solverstate"),
        ("derived1/train_val.prototxt", "derived1/init.caffemodel", "derived1/init.solverstate"),
    ):
        blobs = caffemodel.read_weights(midway / weights)
        slots = list(learnable(prototxt.read(midway / net, "net"), blobs))
        parts.append((dict(zip(slots, read_solverstate(midway / state).history)), read_solverstate(midway / state)))
        assert len(slots) == len(parts[-1][1].history)
    (old, parent), (new, derived) = parts
    assert (derived.iter, derived.current_step) == (50, parent.current_step)
    assert derived.learned_net == "derived1/init.caffemodel"
    halves = np.concatenate([new["res2_conv2_split1", 0], new["res2_conv2_split2", 0]])
    assert sorted(map(bytes, halves)) == sorted(map(bytes, old["res2_conv2", 0])) and np.abs(halves).max() > 0
    assert np.array_equal(new["res1_conv2", 0], old["res1_conv2", 0])
    # The digits net has no biases; its history of one goes with its kernel.
    partition = Partition((1, 3), (0, 2))
    moved = _moved({("x", 0): np.arange(8).reshape(4, 2, 1, 1), ("x", 1): np.arange(4)}, {"x": partition})
    assert moved["x_split1", 1].tolist() == [1, 3] and moved["x_split2", 1].tolist() == [0, 2]
    assert moved["x_split1", 0].ravel().tolist() == [2, 3, 6, 7]
    assert not np.any(new["res2_conv2_split2_residual_pre", 0]) and not np.any(new["res2_conv2_reorder", 0])


@each_backend
def test_adam_keeps_both_moments(midway: Path) -> None:
    solver = prototxt.read(midway / "digits/solver.prototxt")
    for key, value in (("type", "Adam"), ("base_lr", 0.001), ("max_iter", 50)):
        solver.set(key, value)
    path = midway / "digits/solver.prototxt"
    path.write_bytes(solver.to_bytes())
    train("digits/solver.prototxt", midway)
    solver.set("max_iter", 60)
    path.write_bytes(solver.to_bytes())
    derive(midway, "--kind", "skip")
    ours = losses(train("derived1/solver.prototxt", midway, snapshot="derived1/init.solverstate"))
    assert ours[50] == pytest.approx(parent_losses(midway)[50], rel=1e-4)


@each_backend
def test_tpm_goes_on(midway: Path) -> None:
    """What was not split is measured as if nothing had happened; new layers over the windows still to come."""
    caffe_split("instrument", "digits/train_val.prototxt", "--remove", "--in-place", cwd=midway)
    for path in midway.glob("digits/*_iter_*"):
        path.unlink()
    caffe_split(
        "instrument",
        "digits/train_val.prototxt",
        "--window",
        "0:30",
        "--window",
        "50:80",
        "--interval",
        5,
        "--in-place",
        cwd=midway,
    )
    train("digits/solver.prototxt", midway)
    derive(midway, "--kind", "skip")
    net = prototxt.read(midway / "derived1/train_val.prototxt")
    assert str(watchers(net)["res2_conv2_split1"].message).count("start_iter") == 1
    train("derived1/solver.prototxt", midway, snapshot="derived1/init.solverstate")
    report = caffe_split("tpm", "derived1/solver.prototxt", "--iter", 80, cwd=midway).stdout
    for name in ("res1_conv2", "res2_conv2_split1", "res2_conv2_split2"):
        assert f"((50, 80), ('{name}'," in report
    assert "((0, 30), ('res1_conv2'," in report and "((0, 30), ('res2_conv2_split1'," not in report


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda path: path.unlink(), "needs the solver state that Caffe saved with it, .*_50.solverstate"),
        (lambda path: write_solverstate(path, type(read_solverstate(path))(60)), "of iteration 60, expected 50"),
        (
            lambda path: write_solverstate(path, type(read_solverstate(path))(50, "", 0, [np.zeros(3)] * 7)),
            r"7 blobs of history, but .* learnable parameters",
        ),
    ],
    ids=["none", "another iteration", "another net"],
)
def test_states_that_do_not_fit(midway: Path, damage: object, message: str) -> None:
    damage(midway / "digits/digits_iter_50.solverstate")  # type: ignore[operator]
    result = caffe_split(
        "make-derived",
        "digits/solver.prototxt",
        "--iter",
        50,
        "--schedule",
        "continue",
        "--layers",
        "conv1",
        "--partition",
        "random:1",
        cwd=midway,
        status=1,
    )
    assert re.search(message, result.stderr) and result.stderr.count("\n") == 1
    assert not (midway / "derived1").exists()


def test_nothing_is_left_to_continue_at_the_end(midway: Path) -> None:
    result = caffe_split(
        "make-derived",
        "digits/solver.prototxt",
        "--iter",
        80,
        "--schedule",
        "continue",
        "--layers",
        "conv1",
        "--partition",
        "random:1",
        cwd=midway,
        status=1,
    )
    assert "the training ends at its iteration 80 (max_iter is 80)" in result.stderr
