"""Means, spreads and intervals against worked examples and, where it is there, scipy."""

from __future__ import annotations

import math

import pytest

from caffe_split.study.statistics import paired, spread, t_quantile


def test_a_worked_example() -> None:
    found = paired([1.0, 2.0, 3.0, 4.0, 5.0])
    # Mean 3, deviation sqrt(2.5), t(4) = 2.776: half = 2.776 * 1.5811 / sqrt(5).
    assert found.mean == 3.0 and found.high - found.mean == pytest.approx(1.9632, abs=1e-4)
    assert found.reading == "above zero"


@pytest.mark.parametrize(
    ("differences", "reading"),
    [
        ([0.1, -0.1, 0.2, -0.2, 0.05], "not distinguishable from zero"),
        ([-1.0, -1.1, -0.9, -1.0, -1.05], "below zero"),
        ([1.0, 1.1], "above zero (2 seeds: too few for a claim)"),
        ([1.0], "one pair or none: no interval"),
        ([], "one pair or none: no interval"),
        ([0.5, 0.5, 0.5, 0.5, 0.5], "all pairs alike: no interval"),
        # An image of 1,600 each time, in binary.
        ([a - b for a, b in ((0.92, 0.919375), (0.93, 0.929375), (0.915, 0.914375))], "all pairs alike: no interval"),
    ],
)
def test_the_reading_is_honest(differences: list[float], reading: str) -> None:
    assert paired(differences).reading == reading


def test_spread_of_few_is_not_a_number() -> None:
    assert spread([2.0, 4.0]) == (3.0, pytest.approx(math.sqrt(2)))
    assert spread([1.0])[0] == 1.0 and math.isnan(spread([1.0])[1])
    assert all(math.isnan(value) for value in spread([]))


@pytest.mark.parametrize("outside", [0.2, 0.05, 0.05 / 12, 1e-4])
def test_the_quantiles_of_t(outside: float) -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in (1, 2, 3, 4, 5, 9, 30, 31, 199):
        assert t_quantile(degrees, outside) == pytest.approx(stats.t.ppf(1 - outside / 2, degrees), rel=1e-9)


def test_intervals_that_are_right_together_are_wider() -> None:
    stats = pytest.importorskip("scipy.stats")
    values = [0.1, 0.4, 0.2, 0.35]
    alone, among = paired(values), paired(values, 6)
    assert alone.together == (alone.low, alone.high) == (among.low, among.high)
    half = stats.t.ppf(1 - 0.05 / 12, 3) * spread(values)[1] / 2
    assert among.together == pytest.approx((among.mean - half, among.mean + half))
