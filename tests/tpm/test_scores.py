from __future__ import annotations

import math

import numpy as np
import pytest

from caffe_split.tpm.report import entropy_lines, kernel_lines, ranked, window_lines
from caffe_split.tpm.scores import LayerScores, entropy, mean_entropy, null_tpm, z_scores


def scores(layer: str, tpm: list[float], weights: int = 9, layer_path: float = 1.0) -> LayerScores:
    """Scores with the given TPM; NaN = frozen."""
    values = np.array(tpm)
    return LayerScores(
        layer=layer,
        start=40000,
        stop=50000,
        interval=500,
        steps=20,
        shape=(len(tpm), weights),
        displacement=np.where(np.isnan(values), 0.0, values),
        path=np.where(np.isnan(values), 0.0, 1.0),
        layer_displacement=0.5 * layer_path,
        layer_path=layer_path,
        norm_start=1.25,
        norm_stop=2.5,
    )


FROZEN = scores("skip", [math.nan, math.nan], layer_path=0.0)


def test_entropy_is_that_of_ten_bins_in_nats() -> None:
    assert entropy(np.array([0.05, 0.15, 0.25, 0.35])) == pytest.approx(math.log(4))
    assert entropy(np.array([0.31, 0.39])) == 0.0
    assert entropy(np.array([0.0, 1.0, math.nan])) == pytest.approx(math.log(2))
    assert math.isnan(entropy(np.array([math.nan])))


def test_frozen_is_neither_0_nor_1() -> None:
    half = scores("a", [math.nan, 0.5])
    assert np.isnan(half.tpm[0]) and half.tpm[1] == 0.5
    assert FROZEN.frozen and math.isnan(FROZEN.layer_tpm) and math.isnan(FROZEN.entropy)
    assert mean_entropy([FROZEN, scores("a", [0.05, 0.95])]) == pytest.approx(math.log(2))


def test_report_lines() -> None:
    low, high = scores("conv1", [0.35, 0.32, 0.05, 0.05]), scores("res/conv2", [0.05, 0.15, 0.25, 0.35])
    assert entropy_lines([low, FROZEN, high]) == [
        "Mean TPM ratio entropy = 1.039721",
        "('res/conv2', 4, 36) 1.386294",
        "('conv1', 4, 36) 0.693147",
        "('skip', 2, 18) frozen",
    ]
    assert window_lines([high, FROZEN]) == [
        "((40000, 50000), ('res/conv2', 0.500000)) norm 1.25 -> 2.5",
        "((40000, 50000), ('skip', 'frozen')) norm 1.25 -> 2.5",
    ]
    assert kernel_lines([FROZEN], 0.9) == ["skip 0 frozen", "skip 1 frozen"]
    assert [score.layer for score in ranked([low, FROZEN, high])] == ["res/conv2", "conv1"]


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("interval", [1, 5, 100])
@pytest.mark.parametrize("steps", [100, 1000])
def test_null_against_simulation(momentum: float, interval: int, steps: int) -> None:
    if steps * interval > 10000:
        steps = 10000 // interval
    rng = np.random.default_rng(steps + interval)
    dims, walkers = 64, 16
    velocity = rng.standard_normal((walkers, dims)) / math.sqrt(1 - momentum**2)
    position = np.zeros((walkers, dims))
    previous, path = position.copy(), np.zeros(walkers)
    for t in range(1, steps * interval + 1):
        velocity = momentum * velocity + rng.standard_normal((walkers, dims))
        position = position + velocity
        if t % interval == 0:
            path += np.linalg.norm(position - previous, axis=1)
            previous = position
    tpm = np.linalg.norm(position, axis=1) / path
    assert tpm.mean() == pytest.approx(null_tpm(steps, interval, momentum), rel=0.05)


def test_null_limits() -> None:
    assert null_tpm(10000) == pytest.approx(0.01)
    assert null_tpm(100000, 1, 0.9) == pytest.approx(math.sqrt(19 / 100000), rel=1e-3)
    assert null_tpm(100, 10000, 0.9) == pytest.approx(0.1, rel=1e-2)
    assert null_tpm(1) == 1.0


def test_z_scores_count_in_spreads_of_the_null() -> None:
    null = null_tpm(20, 500, 0.9)
    z = z_scores(scores("a", [null, null * (1 + 1 / math.sqrt(2 * 50)), math.nan], weights=50), 0.9)
    assert z[:2] == pytest.approx([0.0, 1.0], abs=1e-9) and np.isnan(z[2])
