"""What new parameters of a split remember: the formula against differences, and that no solver takes leaps after it."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from caffe_split.derivation.history import ARRAYS
from caffe_split.derivation.new_history import squared_steps, squares
from caffe_split.net.geometry import Geometry
from caffe_split.split.branch_norm import ChannelStatistics, NormSettings, branch_ends, normalised
from caffe_split.split.kinds import KIND_NAMES
from caffe_split.split.layer import SplitOptions
from caffe_split.split.parts import Part
from tests.split.reference import forward
from tests.split.test_unsplit import random_kernels, split
from tests.support import caffe_split, train

# A 3x3 kernel in the middle of such an image sees all of it.
SIDE = 3


def parts_of(kind: str, norm: bool, group: int = 1, bias: bool = True) -> list[Part]:
    rng = np.random.default_rng(1)
    geometry = Geometry((3, 3), (1, 1), (1, 1), group=group)
    kernels = random_kernels(geometry, 6, 4, bias, rng)
    _, parts = split(geometry, kernels, SplitOptions(kind=kind, noise=0.2), SIDE)  # type: ignore[arg-type]
    if norm:
        ends = [part for part in parts if part.name in branch_ends(parts)]
        statistics = {
            part.top: ChannelStatistics(rng.standard_normal(part.num_output), rng.uniform(0.5, 2, part.num_output))
            for part in ends
        }
        parts = normalised(parts, statistics, NormSettings())
    return parts


def whole(parts: list[Part]) -> np.ndarray:
    """X's kernels as the split computes them, and its bias in the last column: [n, channels * 9 + 1]."""
    columns = []
    for channel, row, column in np.ndindex(4, 3, 3):
        image = np.zeros((4, SIDE, SIDE))
        image[channel, row, column] = 1
        columns.append(output(parts, image))
    nothing = output(parts, np.zeros((4, SIDE, SIDE)))
    return np.stack([each - nothing for each in columns] + [nothing], axis=1)


def output(parts: list[Part], image: np.ndarray) -> np.ndarray:
    return forward(parts, "b", image)["t"][:, 1, 1]


@pytest.mark.parametrize("norm", [False, True])
@pytest.mark.parametrize("kind", KIND_NAMES)
def test_squares_are_those_of_the_derivative(kind: str, norm: bool) -> None:
    """X's kernels are linear in each single parameter, so that a difference is the derivative."""
    parts = parts_of(kind, norm)
    rng = np.random.default_rng(2)
    weight, bias = rng.uniform(1, 2, (6, 4, 3, 3)), rng.uniform(1, 2, 6)
    given = np.column_stack([weight.reshape(6, -1), bias])
    found = squares(parts, weight, bias)
    start = whole(parts)
    for number, part in enumerate(parts):
        for index, blob in enumerate(map(np.asarray, part.blobs)):
            if part.form == "batch_norm":
                continue
            assert found[part.name, index].shape == blob.shape
            place = tuple(rng.integers(0, side) for side in blob.shape)
            changed = blob.copy()
            changed[place] += 1
            blobs = (*part.blobs[:index], changed, *part.blobs[index + 1 :])
            moved = whole([*parts[:number], replace(part, blobs=blobs), *parts[number + 1 :]])
            expected = (np.square(moved - start) * given).sum()
            assert found[part.name, index][place] == pytest.approx(expected, rel=1e-4), (part.name, index)


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_every_parameter_of_any_split_gets_a_share(kind: str) -> None:
    """In groups, without bias, too: nothing is left at 0, which the first step would divide by."""
    for parts in (parts_of(kind, True, group=2, bias=False), parts_of(kind, False, group=2)):
        own = np.ones(6) if len(parts[0].blobs) > 1 else None
        for values in (squares(parts, np.ones((6, 2, 3, 3)), own), squared_steps(parts, np.ones((6, 2, 3, 3)), own)):
            for part in parts:
                if part.form != "batch_norm" and not part.frozen:
                    for index, blob in enumerate(part.blobs):
                        assert values[part.name, index].shape == blob.shape and (values[part.name, index] > 0).all()


def test_steps_of_a_convolution_of_the_bottom_are_xs_own() -> None:
    parts = parts_of("conv1x1", False)
    rng = np.random.default_rng(3)
    weight = rng.uniform(1, 2, (6, 4, 3, 3))
    found = squared_steps([replace(part) for part in parts], weight, np.ones(6))
    added = next(part for part in parts if part.form == "helper" and part.bottoms == ("b",))
    mean = found[added.name, 0][:, :, 0, 0]
    assert mean.min() > 0.5 and mean.max() < 2.5  # X's, between 1 and 2, mixed by the reorder


RATES = {
    "SGD": "base_lr: 0.01 momentum: 0.9",
    "Nesterov": "base_lr: 0.01 momentum: 0.9",
    "AdaGrad": "base_lr: 0.01",
    "RMSProp": "base_lr: 0.001 rms_decay: 0.98",
    "AdaDelta": "base_lr: 1 momentum: 0.95 delta: 1e-6",
    "Adam": "base_lr: 0.001 momentum: 0.9",
}
NET = """\
layer { name: "data" type: "HDF5Data" top: "data" top: "goal" hdf5_data_param { source: "list.txt" batch_size: 8 } }
layer { name: "x" type: "Convolution" bottom: "data" top: "x" convolution_param { num_output: 8 kernel_size: 3 pad: 1
  weight_filler { type: "msra" } } }
layer { name: "relu" type: "ReLU" bottom: "x" top: "x" }
layer { name: "ip" type: "InnerProduct" bottom: "x" top: "ip" inner_product_param { num_output: 4
  weight_filler { type: "xavier" } } }
layer { name: "loss" type: "EuclideanLoss" bottom: "ip" bottom: "goal" top: "loss" }
"""


def losses(log: str) -> list[float]:
    return [float(value) for value in re.findall(r"Iteration \d+[^\n]*, loss = (\S+)", log)]


@pytest.mark.parametrize("solver", ARRAYS)
@pytest.mark.usefixtures("any_backend")
def test_the_losses_after_a_split_are_the_parents(tmp_path: Path, solver: str) -> None:
    """Five iterations on: with no memory for what is new, RMSProp's loss was many times its parent's."""
    rng = np.random.default_rng(0)
    images = rng.standard_normal((24, 3, 6, 6)).astype(np.float32)
    goal = np.tanh(images.reshape(24, -1) @ rng.standard_normal((108, 4)) / 5).astype(np.float32)
    with h5py.File(tmp_path / "data.h5", "w") as file:
        file.update({"data": images, "goal": goal})
    (tmp_path / "list.txt").write_text("data.h5\n")
    (tmp_path / "n.prototxt").write_text(NET)
    text = f'net: "n.prototxt" {RATES[solver]} type: "{solver}" lr_policy: "fixed" display: 1 random_seed: 1 '
    (tmp_path / "s.prototxt").write_text(text + 'max_iter: 40 snapshot_prefix: "p"')
    train("s.prototxt", tmp_path)
    (tmp_path / "s.prototxt").write_text(text + 'max_iter: 46 snapshot_prefix: "p"')
    options = ("--iter", 40, "--layers", "x", "--partition", "random:1", "--schedule", "continue", "--kind", "residual")
    caffe_split("make-derived", "s.prototxt", *options, "--out", "d", cwd=tmp_path)
    parent = losses(train("s.prototxt", tmp_path, snapshot="p_iter_40.solverstate"))[:6]
    derived = losses(train("d/s.prototxt", tmp_path, snapshot="d/init.solverstate"))[:6]
    assert len(parent) == len(derived) == 6
    assert derived == pytest.approx(parent, rel=0.1)
