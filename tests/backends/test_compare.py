"""The neutral parts: how far blobs lie apart, and the statistics of channels over batches."""

from __future__ import annotations

from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest

from caffe_split.backends.compare import compare_blobs, compare_nets
from caffe_split.backends.measure import measure
from caffe_split.backends.protocol import Forwarded, Forwarding, NetFiles
from caffe_split.backends.verify import Verification


def forwarded(*batches: dict[str, object], outputs: tuple[str, ...] = ()) -> Forwarded:
    return Forwarded(
        outputs, [{name: np.array(value, np.float32) for name, value in batch.items()} for batch in batches]
    )


def test_the_largest_difference_of_any_batch_counts() -> None:
    first = forwarded({"x": [1, 2]}, {"x": [4, 0]}, outputs=("x",))
    second = forwarded({"x": [1, 2.5]}, {"x": [3, 0]}, outputs=("x",))
    (row,) = compare_blobs(first, second)
    assert (row.blob, row.is_output, row.largest, row.scale, row.relative) == ("x", True, 1.0, 4.0, 0.25)


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ([{"x": [1.0]}, {"x": [np.nan]}], [{"x": [1.0]}, {"x": [1.0]}]),
        ([{"x": [np.nan]}, {"x": [1.0]}], [{"x": [1.0]}, {"x": [1.0]}]),
        ([{"x": [1.0]}, {"x": [1.0]}], [{"x": [1.0]}, {"x": [np.inf]}]),
        ([{"x": [1.0, 2.0]}], [{"x": [1.0]}]),
    ],
)
def test_what_is_no_number_or_has_another_shape_is_infinitely_far(first: list, second: list) -> None:
    (row,) = compare_blobs(forwarded(*first), forwarded(*second))
    assert row.relative == float("inf")


def test_an_output_of_one_net_alone_counts_and_a_blob_within_it_does_not() -> None:
    first = forwarded({"within": [1], "gone": [1], "both": [1]}, outputs=("gone", "both"))
    second = forwarded({"both": [1], "added": [1], "between": [1]}, outputs=("both", "added"))
    rows = {row.blob: row.relative for row in compare_blobs(first, second)}
    assert rows == {"gone": float("inf"), "both": 0.0, "added": float("inf")}


def test_a_small_loss_is_held_against_a_hundredth() -> None:
    """A unit in the last place of a probability near 1 is much of its logarithm."""
    first = forwarded({"ip": [8.0, -8.0], "loss": [4.58e-4]}, outputs=("loss",))
    second = forwarded({"ip": [8.0, -8.0], "loss": [4.58e-4 + 6e-8]}, outputs=("loss",))
    worse = forwarded({"ip": [8.0, -8.0], "loss": [4.58e-4 + 6e-6]}, outputs=("loss",))

    def passes(other: Forwarded, losses: tuple[str, ...]) -> bool:
        backend = Mock(forward=lambda nets, how: [first, other][: len(nets)])
        files = NetFiles(Path("n"), Path("w"))
        rows = compare_nets(backend, files, files, Forwarding(), 1e-4, losses=losses)
        return all(row.passes(1e-4) for row in rows)

    assert passes(second, ("loss",))
    assert not passes(second, ()) and not passes(worse, ("loss",))


def test_statistics_are_those_of_all_batches_together() -> None:
    """Also where the mean is large against the variance, and batches differ in size."""
    rng = np.random.default_rng(0)
    batches = [rng.normal(1e4, 0.5, (count, 3, 5, 4)).astype(np.float32) for count in (7, 2)]
    found = measure(({"x": each} for each in batches), ["x"])["x"]
    whole = np.concatenate(batches).astype(np.float64)
    np.testing.assert_allclose(found.mean, whole.mean(axis=(0, 2, 3)), rtol=1e-12)
    np.testing.assert_allclose(found.variance, whole.var(axis=(0, 2, 3)), rtol=1e-6)


def test_no_difference_is_within_a_tolerance_that_is_no_number() -> None:
    (row,) = compare_blobs(forwarded({"x": [1.0]}), forwarded({"x": [1.0]}))
    found = Verification((row,), float("nan"))
    assert not found.passed and "NOT the same function" in found.verdict()
