"""A choice without information is said: too few steps, kernels that are all alike, entropies that are all 0."""

from __future__ import annotations

import numpy as np
import pytest

from caffe_split.derivation.choose import expect_differences
from caffe_split.errors import CaffeSplitError
from caffe_split.formats import prototxt
from caffe_split.net.layers import all_layers
from caffe_split.tpm.scores import LayerScores, null_tpm
from caffe_split.tpm.trust import kernels_alike, least_steps, longer_windows, short_windows, warnings

CONV = 'layer { name: "%s" type: "Convolution" bottom: "x" top: "y" convolution_param { num_output: 4 } }\n'


def scores(tpm: list[float], steps: int = 100, layer: str = "c", stop: int = 1000) -> LayerScores:
    path = np.ones(len(tpm))
    shape = (len(tpm), 3, 3, 3)
    return LayerScores(layer, stop - 10 * steps, stop, 10, steps, shape, np.array(tpm), path, 0.5, 1.0, 1.0, 1.0)


@pytest.mark.parametrize("weights", [27, 144])
@pytest.mark.parametrize("momentum", [0.0, 0.9])
def test_from_the_least_number_of_steps_on_noise_is_told_from_a_straight_line(weights: int, momentum: float) -> None:
    """Kernels that only noise moves, simulated: three standard deviations above their mean there is room below 1."""
    least = least_steps(1, momentum, weights)
    room = {}
    for steps in (least, max(least // 2, 1)):
        rng = np.random.default_rng(0)
        velocity = np.zeros((400, weights))
        for _ in range(200):
            velocity = momentum * velocity + rng.normal(size=velocity.shape)
        position, path = np.zeros_like(velocity), np.zeros(len(velocity))
        for _ in range(steps):
            velocity = momentum * velocity + rng.normal(size=velocity.shape)
            position += velocity
            path += np.linalg.norm(velocity, axis=1)
        tpm = np.linalg.norm(position, axis=1) / path
        assert tpm.mean() == pytest.approx(null_tpm(steps, 1, momentum), rel=0.1)
        room[steps] = 1 - tpm.mean() - 3 * null_tpm(steps, 1, momentum) / np.sqrt(2 * weights)
    assert room.pop(least) > -0.03 and min(room.values()) < 0.03


def test_one_step_tells_nothing_and_the_snapshots_may_allow_more() -> None:
    (line,) = warnings([scores([1.0, 1.0, 1.0], steps=1)], 0.9, [0, 10, 20, 30, 40, 50])
    assert "the window 990:1000 has N = 1 step: over one step TPM is 1 for every kernel" in line
    assert "from N = 4 on. The snapshots at hand allow --window 0:50 (N = 5)" in line
    (line,) = warnings([scores([1.0, 1.0, 1.0], steps=1)], 0.9, [990, 1000])
    assert "allow no such window: train with TPM layers (instrument), or 5 snapshots" in line


def test_few_steps_are_too_near_to_noise() -> None:
    (line,) = warnings([scores([0.9, 0.7, 0.8], steps=2)], 0.9)
    assert "the window 980:1000 has N = 2 steps of 10: pure noise has a TPM of 0.87 +- 0.12 there" in line
    assert warnings([scores([0.9, 0.7, 0.85], steps=100)], 0.9) == []


def test_windows_are_looked_at_before_they_are_measured() -> None:
    (line,) = short_windows([(0, 10), (100, 1100)], 10, 0.9, [(4, 3, 3, 3), (8, 64, 3, 3)])
    assert line.startswith("the window 0:10 has N = 1 steps of 10; TPM means something from N = 4 on")


def test_kernels_that_are_all_alike_are_said_and_not_divided_by_their_index() -> None:
    layers = all_layers(prototxt.parse(CONV % "c" + CONV % "d", "net"))
    alike, apart = scores([0.5] * 4), scores([0.5, 0.6, 0.7, 0.8], layer="d")
    assert kernels_alike(alike) and not kernels_alike(apart) and not kernels_alike(scores([1.0]))
    assert not kernels_alike(scores([0.5, 0.5, np.nan]))  # a frozen kernel is told from the others
    assert any("all kernels of c have the same TPM" in line for line in warnings([alike, apart], 0.0))
    expect_differences(layers[1:], [alike, apart])
    with pytest.raises(CaffeSplitError, match=r"all kernels of c have the same TPM over the window 0:1000 \(N = 100\)"):
        expect_differences(layers, [alike, apart])


def test_entropies_that_are_all_0_do_not_say_which_layers_to_split() -> None:
    same_bin = [scores([0.51, 0.52, 0.53], layer=name) for name in "cd"]
    (line,) = warnings(same_bin, 0.0)
    assert "the TPM entropy of all layers in the window 0:1000 is 0" in line
    assert warnings(same_bin, 0.0, chooses=False) == []  # the layers are named
    assert warnings([same_bin[0], scores([0.1, 0.5], layer="d")], 0.0) == []


def test_windows_that_snapshots_allow() -> None:
    assert longer_windows([], 2) == longer_windows([5], 2) == longer_windows([0, 10], 2) == []
    assert longer_windows([0, 10, 20, 25, 30, 35, 40], 3) == [(20, 40, 5)]


def test_with_momentum_1_nothing_is_told_and_no_window_asked_for() -> None:
    (line,) = short_windows([(0, 10)], 1, 1.0, [(4, 2, 3, 3)])
    assert line.startswith("with momentum 1 a kernel keeps every push") and warnings([], 1.0) == [line]
