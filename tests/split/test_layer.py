"""One layer's split: exact starts over many geometries, and the studies' numbers to the last bit."""

from __future__ import annotations

import re

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffe_split.errors import CaffeSplitError
from caffe_split.net.geometry import Geometry
from caffe_split.split.algebra import Kernels
from caffe_split.split.kinds import KIND_NAMES, KindName
from caffe_split.split.layer import Init, SplitOptions, split_convolution
from caffe_split.split.partition import Partition, divide, parse_rule
from caffe_split.split.parts import Activation, SkipPool
from tests.split.reference import convolve, forward, geometries


def make(
    geometry: Geometry, count: int, channels: int, bias: bool, seed: int = 0
) -> tuple[Kernels, np.random.Generator]:
    rng = np.random.default_rng(seed)
    # float32 numbers, as a snapshot holds them
    weight = rng.standard_normal((count, channels // geometry.group, *geometry.kernel)).astype(np.float32)
    offset = rng.standard_normal(count).astype(np.float32) if bias else None
    kernels = Kernels(weight.astype(np.float64), None if offset is None else offset.astype(np.float64))
    return kernels, rng


@settings(deadline=None, max_examples=150)
@given(
    kind=st.sampled_from(KIND_NAMES),
    fitting=geometries(),
    bias=st.booleans(),
    noise=st.sampled_from([0.0, 0.01, 0.5]),
    wide=st.booleans(),
    pool=st.sampled_from(["stride", "average"]),
    activation=st.sampled_from(["none", "relu"]),
    rule=st.sampled_from(["random:1", "all"]),
    seed=st.integers(0, 50),
)
def test_exact_start_is_the_same_function(
    *,
    kind: KindName,
    fitting: tuple[Geometry, int],
    bias: bool,
    noise: float,
    wide: bool,
    pool: SkipPool,
    activation: Activation,
    rule: str,
    seed: int,
) -> None:
    geometry, side = fitting
    count, channels = (8, 12) if wide else (12, 8)
    kernels, rng = make(geometry, count, channels, bias, seed)
    partition = divide(parse_rule(rule), np.zeros(count), geometry.group)
    options = SplitOptions(kind=kind, noise=noise, seed=seed, activation=activation, skip_pool=pool)
    try:
        parts = split_convolution(
            "x", "b", "t", geometry, kernels, partition, options=options, input_sizes=((side, side),)
        )
    except CaffeSplitError as error:
        # What has X's own geometry can always be added; the others say what it is that does not fit.
        if not re.search("does not fit|no place" if kind in ("skip", "identity") else "cannot be split by", str(error)):
            raise
        return
    image = rng.standard_normal((channels, side, side))
    expected = convolve(image, kernels.weight, kernels.bias, geometry)
    found = forward(parts, "b", image)["t"]
    assert found.shape == expected.shape
    assert np.abs(found - expected).max() <= 1e-4 * np.abs(expected).max()


def study_parts(kind: str, noise: float) -> tuple[Kernels, Partition, dict[str, list[np.ndarray]]]:
    geometry = Geometry((3, 3), (1, 1), (1, 1))
    kernels, _ = make(geometry, 6, 4, True)
    partition = Partition(fast=(1, 4), slow=(0, 2, 3, 5))
    options = SplitOptions(kind=kind, init="study", noise=noise, seed=3)
    parts = split_convolution("x", "b", "t", geometry, kernels, partition, options=options)
    return kernels, partition, {p.name: [np.float32(blob) for blob in p.blobs] for p in parts if p.blobs}


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_study_start_keeps_the_kernels(kind: str) -> None:
    kernels, partition, blobs = study_parts(kind, 0.01)
    for name, side in (("x_split1", partition.fast), ("x_split2", partition.slow)):
        assert np.array_equal(blobs[name][0], np.float32(kernels.weight[list(side)]))
        assert np.array_equal(blobs[name][1], np.float32(kernels.bias[list(side)]))


def test_study_residual_pre_is_the_formula_to_the_last_bit() -> None:
    kernels, partition, blobs = study_parts("residual", 0.01)
    expected = -0.2 * kernels.weight[list(partition.slow)]
    expected[:, :, 1, 1] += 2.0 * kernels.weight[list(partition.slow)][:, :, 1, 1]
    assert np.array_equal(blobs["x_split2_residual_pre"][0], expected.astype(np.float32))
    assert len(blobs["x_split2_residual_pre"]) == 1


@pytest.mark.parametrize(
    ("kind", "name"), [("residual", "x_split2_residual_post"), ("extension", "x_split2_extension")]
)
def test_study_identity_with_noise(kind: str, name: str) -> None:
    noise = study_parts(kind, 0.01)[2][name][0][:, :, 0, 0] - np.eye(4)
    assert 0.001 < noise.std() < 0.02
    assert np.array_equal(study_parts(kind, 0.0)[2][name][0][:, :, 0, 0], np.eye(4))


def test_study_reorder_is_the_permutation() -> None:
    _, partition, blobs = study_parts("skip", 0.0)
    matrix = blobs["x_reorder"][0][:, :, 0, 0]
    channels = np.arange(6.0)
    assert np.array_equal(matrix @ channels[list(partition.order)], channels)


def test_skip_is_the_identity_and_frozen() -> None:
    kernels, _ = make(Geometry((3, 3), (1, 1), (1, 1)), 6, 4, False)
    partition = Partition(fast=(1, 4), slow=(0, 2, 3, 5))
    parts = split_convolution(
        "x", "b", "t", Geometry((3, 3), (1, 1), (1, 1)), kernels, partition, options=SplitOptions(kind="skip")
    )
    (skip,) = [part for part in parts if part.name == "x_split2_skip"]
    assert skip.frozen and skip.blobs[0].shape == (4, 4, 1, 1)
    # Kernels 0, 2, 3 select their own input channel; there is no input channel 5.
    assert np.array_equal(skip.blobs[0][:, :, 0, 0], np.eye(4)[[0, 2, 3, 0]] * [[1], [1], [1], [0]])


@pytest.mark.parametrize(("side", "kernel"), [(10, (2, 2)), (9, (3, 3))])
def test_average_skip_is_small_where_the_size_divides(side: int, kernel: tuple[int, int]) -> None:
    geometry = Geometry((3, 3), (2, 2), (1, 1))
    kernels, _ = make(geometry, 4, 4, False)
    options = SplitOptions(kind="skip", skip_pool="average")
    partition = Partition((0, 1), (2, 3))
    parts = split_convolution("x", "b", "t", geometry, kernels, partition, options=options, input_sizes=((side, side),))
    (skip,) = [part for part in parts if part.name == "x_split2_skip"]
    assert skip.blobs[0].shape[2:] == kernel
    assert skip.blobs[0][0, 2].sum() == pytest.approx(1.0) and skip.blobs[0].max() == 0.25


def test_average_that_does_not_fit_is_refused() -> None:
    geometry = Geometry((1, 1), (2, 2))
    kernels, _ = make(geometry, 4, 4, False)
    options = SplitOptions(kind="skip", skip_pool="average")
    with pytest.raises(CaffeSplitError, match="--skip-pool stride"):
        split_convolution(
            "x", "b", "t", geometry, kernels, Partition((0, 1), (2, 3)), options=options, input_sizes=((8, 8),)
        )


def test_noise_depends_on_seed_and_name_only() -> None:
    geometry = Geometry((3, 3), (1, 1), (1, 1))
    kernels, _ = make(geometry, 6, 4, False)

    def reorder(name: str, seed: int) -> np.ndarray:
        options = SplitOptions(seed=seed)
        return split_convolution(name, "b", "t", geometry, kernels, Partition((0, 1), (2, 3, 4, 5)), options=options)[
            -1
        ].blobs[0]

    assert np.array_equal(reorder("x", 0), reorder("x", 0))
    assert not np.array_equal(reorder("x", 0), reorder("x", 1))
    assert not np.array_equal(reorder("x", 0), reorder("y", 0))


def test_noise_of_a_wide_layer_stays_invertible() -> None:
    geometry = Geometry((1, 1))
    kernels, _ = make(geometry, 600, 2, False)
    partition = divide(parse_rule("random:0"), np.zeros(600))
    parts = split_convolution("x", "b", "t", geometry, kernels, partition, options=SplitOptions(noise=1.0))
    assert np.linalg.cond(np.asarray(parts[-1].blobs[0])[:, :, 0, 0]) <= 3.0 + 1e-9


@pytest.mark.parametrize(("kind", "words"), [("conv1x1", 1), ("acnet", 2), ("dbb", 3)])
@pytest.mark.parametrize("init", ["exact", "study"])
def test_random_starts_have_the_size_of_the_kernel_beside_them(kind: KindName, words: int, init: Init) -> None:
    kernels, _ = make(Geometry((3, 3), (1, 1), (1, 1)), 6, 400, False)
    kernels.weight[:] *= np.array([1, 10, 1e-3, 0, 5, 1e3])[:, None, None, None]
    rms = np.sqrt(np.mean(kernels.weight.reshape(6, -1) ** 2, axis=1))
    options = SplitOptions(kind=kind, init=init)
    parts = split_convolution(
        "x", "b", "t", Geometry((3, 3), (1, 1), (1, 1)), kernels, Partition((), tuple(range(6))), options=options
    )
    drawn = [np.asarray(part.blobs[0]) for part in parts[1:-1] if not part.frozen and len(part.blobs[0]) == 6]
    assert len(drawn) == words
    for weight in drawn:
        found = np.sqrt(np.mean(weight.reshape(6, -1) ** 2, axis=1))
        assert found == pytest.approx(rms, rel=0.15)
        assert abs(np.mean(weight[0])) < 5 * rms[0] / np.sqrt(weight[0].size)
    if init == "study":
        assert np.array_equal(parts[0].blobs[0], np.float32(kernels.weight))


def test_small_branches_stay_small_where_their_size_is_x_s_for_any_input() -> None:
    """Through the middle, where the padding reaches it; else the branch has X's geometry and zeros elsewhere."""
    kernels, _ = make(Geometry((3, 3)), 4, 3, False)
    whole = Partition((), (0, 1, 2, 3))

    def geometry(kind: KindName, x: Geometry) -> list[Geometry | None]:
        parts = split_convolution("x", "b", "t", x, kernels, whole, options=SplitOptions(kind=kind))
        return [part.geometry for part in parts[1:-1]]

    padded = Geometry((3, 3), (2, 2), (3, 2), (2, 1))
    assert geometry("conv1x1", padded) == [Geometry((1, 1), (2, 2), (1, 1))]
    assert geometry("acnet", padded) == [
        Geometry((1, 3), (2, 2), (1, 2)),
        Geometry((3, 1), (2, 2), (3, 1), (2, 1)),
    ]
    bare = Geometry((3, 3), (1, 1), (0, 1))
    assert geometry("conv1x1", bare) == [bare]
    assert geometry("acnet", bare) == [bare, Geometry((3, 1), (1, 1), (0, 0))]


def test_a_kind_without_meaning_for_a_layer_is_refused_by_name() -> None:
    kernels, _ = make(Geometry((1, 1)), 4, 3, False)
    for kind, reason in (("acnet", "no rows and columns"), ("dbb", "no places to average")):
        with pytest.raises(CaffeSplitError, match=f"layer 'x' cannot be split by {kind}: .*{reason}.*another kind"):
            split_convolution(
                "x", "b", "t", Geometry((1, 1)), kernels, Partition((0,), (1, 2, 3)), options=SplitOptions(kind=kind)
            )
    with pytest.raises(CaffeSplitError, match=r"layer 'x': --branch-norm .* kind extension has a single path"):
        split_convolution(
            "x",
            "b",
            "t",
            Geometry((1, 1)),
            kernels,
            Partition((), (0, 1, 2, 3)),
            options=SplitOptions(kind="extension", branch_norm=1),
        )
