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


def test_the_table_of_t() -> None:
    stats = pytest.importorskip("scipy.stats")
    for degrees in range(1, 200):
        assert t_quantile(degrees) == pytest.approx(stats.t.ppf(0.975, degrees), abs=2e-3 if degrees > 30 else 6e-5)
