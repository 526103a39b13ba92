from __future__ import annotations

import csv
import dataclasses
import io
import json
import math

import numpy as np
import pytest

from caffe_split import jsontext
from caffe_split.tpm.report import as_csv, as_dict, comparable, entropy_lines, kernel_lines, ranked, window_lines
from caffe_split.tpm.scores import LayerScores, entropy, mean_entropy, null_tpm, z_score, z_scores


def rows_of(text: str) -> list[dict[str, str]]:
    return list(csv.DictReader(io.StringIO(text)))


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
    assert kernel_lines([FROZEN, scores("a", [0.5], weights=50)], 0.0) == [
        "layer  kernel       TPM         z",
        "skip        0    frozen",
        "skip        1    frozen",
        "a           0  0.500000     +12.4",
    ]
    assert [score.layer for score in ranked([low, FROZEN, high])] == ["res/conv2", "conv1"]


def test_csv_and_json_say_the_same() -> None:
    given = [scores("a", [0.25, math.nan]), FROZEN]
    rows = rows_of(as_csv(given, 0.9))
    assert [(row["layer"], row["kernel"]) for row in rows] == [
        ("a", ""),
        ("a", "0"),
        ("a", "1"),
        ("skip", ""),
        ("skip", "0"),
        ("skip", "1"),
    ]
    assert {(row["start"], row["stop"], row["interval"], row["steps"], row["momentum"]) for row in rows} == {
        ("40000", "50000", "500", "20", "0.9")
    }
    values = json.loads(jsontext.dumps([as_dict(score, 0.9) for score in given]))
    assert rows[0]["tpm"] == "0.5" and values[0]["layer_tpm"] == 0.5
    assert float(rows[0]["null"]) == values[0]["null"] == null_tpm(20, 500, 0.9)
    assert float(rows[1]["z"]) == values[0]["kernels"]["z"][0] == pytest.approx(z_scores(given[0], 0.9)[0])
    assert float(rows[0]["z"]) == values[0]["layer_z"]
    # What did not move has no value in either.
    assert [rows[i]["tpm"] for i in (2, 3, 4)] == ["", "", ""] and rows[3]["entropy"] == ""
    assert values[0]["kernels"]["tpm"] == [0.25, None]
    assert values[1]["frozen"] and values[1]["layer_tpm"] is None and values[1]["entropy"] is None


def test_unequal_sampling_is_not_comparable() -> None:
    one = scores("a", [0.5])
    assert comparable([one, dataclasses.replace(one, start=0, stop=10000)])
    assert not comparable([one, dataclasses.replace(one, steps=10)])
    assert not comparable([one, dataclasses.replace(one, interval=1000)])


def test_norms_that_nobody_kept_are_unknown() -> None:
    earlier = dataclasses.replace(scores("a", [0.5]), norm_start=math.nan, norm_stop=2.0)
    assert window_lines([earlier]) == ["((40000, 50000), ('a', 0.500000)) norm unknown -> 2"]


def wander(steps: int, interval: int, momentum: float, walkers: int, weights: int) -> np.ndarray:
    """TPM of so many kernels whose weights are pushed by white noise through momentum, from its stationary state."""
    rng = np.random.default_rng(steps + interval)
    velocity = rng.standard_normal((walkers, weights)) / math.sqrt(1 - momentum**2)
    position = np.zeros((walkers, weights))
    previous, path = position.copy(), np.zeros(walkers)
    for t in range(1, steps * interval + 1):
        velocity = momentum * velocity + rng.standard_normal((walkers, weights))
        position = position + velocity
        if t % interval == 0:
            path += np.linalg.norm(position - previous, axis=1)
            previous = position
    return np.linalg.norm(position, axis=1) / path


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("interval", [1, 5, 100])
@pytest.mark.parametrize("steps", [100, 1000])
def test_null_against_simulation(momentum: float, interval: int, steps: int) -> None:
    if steps * interval > 10000:
        steps = 10000 // interval
    tpm = wander(steps, interval, momentum, walkers=16, weights=64)
    assert tpm.mean() == pytest.approx(null_tpm(steps, interval, momentum), rel=0.05)


@pytest.mark.parametrize("momentum", [0.0, 0.9])
@pytest.mark.parametrize("weights", [9, 144])
def test_z_scores_of_noise_are_standard(momentum: float, weights: int) -> None:
    tpm = wander(400, 1, momentum, walkers=500, weights=weights)
    noise = LayerScores("a", 0, 400, 1, 400, (500, weights), tpm, np.ones(500), 0.1, 1.0, 1.0, 1.0)
    z = z_scores(noise, momentum)
    # A mean is off by its own error, 1 / sqrt(500), and by the null's last per cent, in units of the spread.
    assert abs(z.mean()) < 0.15 + 0.02 * math.sqrt(2 * weights)
    assert z.std() == pytest.approx(1.0, abs=0.15)


def test_null_limits() -> None:
    assert null_tpm(10000) == pytest.approx(0.01)
    assert null_tpm(100000, 1, 0.9) == pytest.approx(math.sqrt(19 / 100000), rel=1e-3)
    assert null_tpm(100, 10000, 0.9) == pytest.approx(0.1, rel=1e-2)
    assert null_tpm(1) == 1.0
    assert [null_tpm(5000, 3, momentum) for momentum in (1.0, 90.0, -2.0)] == [1.0, 1.0, 1.0]


@pytest.mark.parametrize("distance", [1e-12, 1e-7, 1e-5, 2e-5, 1e-4])
def test_the_null_near_momentum_1_is_that_of_the_sum(distance: float) -> None:
    steps, m = 100, 1 - distance
    sums = [terms + 2 * sum((terms - k) * m**k for k in range(1, terms)) for terms in (steps, 1)]
    assert null_tpm(steps, 1, m) == pytest.approx(math.sqrt(sums[0] / sums[1]) / steps, rel=1e-6)


def test_z_scores_count_in_spreads_of_the_null() -> None:
    null = null_tpm(20, 500, 0.9)
    z = z_scores(scores("a", [null, null * (1 + 1 / math.sqrt(2 * 50)), math.nan], weights=50), 0.9)
    assert z[:2] == pytest.approx([0.0, 1.0], abs=1e-9) and np.isnan(z[2])
    assert z_score(scores("a", [null] * 4), 0.9) == pytest.approx((0.5 - null) / (null / math.sqrt(2 * 36)))
