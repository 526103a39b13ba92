from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from caffe_split.errors import CaffeSplitError
from caffe_split.split.partition import divide, otsu_count, parse_rule

scores_of = st.lists(st.floats(0, 1), min_size=2, max_size=40).map(lambda values: np.array(values))


def split(rule: str, scores: list[float], group: int = 1) -> tuple[tuple[int, ...], tuple[int, ...]]:
    partition = divide(parse_rule(rule), np.array(scores), group)
    return partition.fast, partition.slow


def test_median_halves() -> None:
    partition = divide(parse_rule("median"), np.linspace(0, 1, 96))
    assert partition.slow == tuple(range(48))
    assert partition.fast == tuple(range(48, 96))


def test_ties_are_broken_by_index() -> None:
    assert split("median", [0.5, 0.5, 0.5, 0.5]) == ((0, 1), (2, 3))


def test_frozen_kernels_are_slow() -> None:
    assert split("median", [np.nan, 0.1, 0.2, np.nan]) == ((1, 2), (0, 3))
    assert split("otsu", [np.nan, 0.1, 0.9, np.nan]) == ((2,), (0, 1, 3))


def test_threshold_and_ratio() -> None:
    assert split("threshold:0.4", [0.1, 0.4, 0.9]) == ((1, 2), (0,))
    assert split("ratio:0.25", [0.1, 0.4, 0.9, 0.2]) == ((2,), (0, 1, 3))


def test_list() -> None:
    assert split("list:2,0", [0.1, 0.4, 0.9, 0.2]) == ((0, 2), (1, 3))


@pytest.mark.parametrize("rule", ["threshold:0", "threshold:2", "ratio:0.001", "ratio:0.999"])
def test_each_side_keeps_one(rule: str) -> None:
    fast, slow = split(rule, [0.1, 0.4, 0.9, 0.2])
    assert fast and slow
    assert 2 in fast and 0 in slow


@given(scores_of, st.sampled_from(["median", "otsu", "threshold:0.5", "ratio:0.3", "random:7"]))
def test_every_kernel_is_on_one_side(scores: np.ndarray, rule: str) -> None:
    partition = divide(parse_rule(rule), scores)
    assert partition.fast and partition.slow
    assert sorted(partition.order) == list(range(len(scores)))
    assert list(partition.fast) == sorted(partition.fast) and list(partition.slow) == sorted(partition.slow)


@given(st.lists(st.integers(0, 20), min_size=2, max_size=25))
def test_otsu_is_the_best_threshold(levels: list[int]) -> None:
    scores = np.array(levels) / 20
    if len(set(levels)) < 2:
        assert otsu_count(scores) == len(levels) // 2
        return

    def between(threshold: float) -> float:
        above, below = scores[scores >= threshold], scores[scores < threshold]
        return len(above) * len(below) * (above.mean() - below.mean()) ** 2

    best = max(between(threshold) for threshold in sorted(set(scores))[1:])
    chosen = np.sort(scores)[::-1][otsu_count(scores) - 1]
    assert between(chosen) == pytest.approx(best)


def test_random_depends_on_seed_and_layer_only() -> None:
    scores, other = np.arange(32.0), np.ones(32)
    rule = parse_rule("random:0")
    assert divide(rule, scores, salt="a") == divide(rule, other, salt="a")
    assert divide(rule, scores, salt="a") != divide(rule, scores, salt="b")
    assert divide(rule, scores, salt="a") != divide(parse_rule("random:1"), scores, salt="a")
    assert len(divide(rule, scores).fast) == 16


def test_groups_give_equally_many() -> None:
    fast, slow = split("median", [0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.4], group=2)
    assert fast == (0, 1, 6, 7)
    assert slow == (2, 3, 4, 5)


def test_random_in_groups_does_not_look_at_scores() -> None:
    rule = parse_rule("random:3")
    assert divide(rule, np.arange(16.0), 4) == divide(rule, np.arange(16.0)[::-1], 4)


@pytest.mark.parametrize(("group", "reason"), [(1, "one kernel only"), (3, "depthwise")])
def test_too_few_kernels(group: int, reason: str) -> None:
    with pytest.raises(CaffeSplitError, match=reason):
        divide(parse_rule("median"), np.ones(group), group)


@pytest.mark.parametrize(
    "rule", ["", "halves", "ratio:1.5", "ratio:", "threshold:x", "random:-1", "random", "list:", "median:3"]
)
def test_unknown_rules(rule: str) -> None:
    with pytest.raises(CaffeSplitError, match="Expected one of median"):
        parse_rule(rule)


@pytest.mark.parametrize("rule", ["list:9", "list:0,0", "list:-1"])
def test_lists_that_do_not_fit(rule: str) -> None:
    with pytest.raises(CaffeSplitError, match=r"different indices of 0\.\.3"):
        split(rule, [0.1, 0.4, 0.9, 0.2])


def test_list_must_be_equal_in_groups() -> None:
    with pytest.raises(CaffeSplitError, match="equally many"):
        split("list:0,1,2", [0.1] * 8, group=2)
