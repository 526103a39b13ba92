"""Matrices of noise: undone as NumPy would, well conditioned, cheap, and no two channels alike."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from caffe_split.net.geometry import Geometry
from caffe_split.split.algebra import Kernels
from caffe_split.split.kinds import KIND_NAMES, KindName
from caffe_split.split.layer import SplitOptions, split_convolution
from caffe_split.split.mixing import BLOCK, LARGEST_NOISE, Mixing, Noise, Pointwise
from caffe_split.split.partition import Partition, divide, parse_rule


def drawn(
    groups: np.ndarray, noise: float, seed: int = 0, exact: bool = True, sizes: np.ndarray | None = None
) -> Mixing:
    return Noise(noise, np.random.default_rng(seed), exact).among(groups, sizes)


@settings(deadline=None, max_examples=60)
@given(
    per_group=st.integers(1, 40),
    group=st.integers(1, 3),
    noise=st.sampled_from([0.0, 0.01, 0.5, 3.0]),
    exact=st.booleans(),
    spread=st.booleans(),
    seed=st.integers(0, 99),
)
def test_a_mixing_is_its_matrix(per_group: int, group: int, noise: float, exact: bool, spread: bool, seed: int) -> None:
    groups = np.repeat(np.arange(group), per_group)
    # In the order of a concat channels of the groups alternate.
    groups = groups[np.random.default_rng(seed).permutation(len(groups))] if spread else groups
    rng = np.random.default_rng(seed)
    sizes = 10.0 ** rng.integers(-3, 3, len(groups)) * rng.integers(0, 2, len(groups))
    mixing = drawn(groups, noise, seed, exact, sizes)
    # The matrix to float64, as no layer has it.
    matrix = np.eye(len(groups))
    for channels, values in mixing.blocks:
        matrix[np.ix_(channels, channels)] = values
    assert np.array_equal(mixing.matrix(), matrix.astype(np.float32))
    assert not matrix[groups[:, None] != groups[None, :]].any()
    assert np.linalg.norm(matrix - np.eye(len(groups)), 2) <= LARGEST_NOISE * 1.01
    weight, bias = rng.standard_normal((len(groups), 2, 3, 1)), rng.standard_normal(len(groups))
    assert mixing.applied(weight) == pytest.approx(np.tensordot(matrix, weight, axes=1))
    undone = mixing.undone(Kernels(weight, bias))
    assert np.tensordot(matrix, undone.weight, axes=1) == pytest.approx(weight)
    assert matrix @ undone.bias == pytest.approx(bias)
    places = rng.permutation(len(groups))
    moved = np.empty_like(matrix, dtype=np.float32)
    moved[places] = matrix
    weight_of_it = mixing.pointwise(places=places.tolist())
    assert weight_of_it.shape == (*moved.shape, 1, 1)
    assert np.asarray(weight_of_it, np.float64).dtype == np.float64
    assert np.array_equal(np.asarray(weight_of_it)[:, :, 0, 0], moved)
    if not spread:
        compact = np.concatenate([matrix[groups == g][:, groups == g] for g in range(group)])
        assert np.array_equal(mixing.matrix(group)[:, :], compact.astype(np.float32))
        kernels = rng.standard_normal((2 * group, per_group, 1, 2))
        dense = np.zeros((2 * group, len(groups), 1, 2))
        for row in range(2 * group):
            dense[row, groups == row // 2] = kernels[row]
        seen = np.einsum("omhw,mc->ochw", dense, matrix)
        expected = np.stack([seen[row, groups == row // 2] for row in range(2 * group)])
        assert mixing.before(kernels, group) == pytest.approx(expected)


@pytest.mark.parametrize("noise", [0.01, 1.0])
def test_wide_layers_are_well_conditioned_at_a_cost_linear_in_their_channels(noise: float) -> None:
    for count in (1, 15, 16, 17, 600):
        mixing = drawn(np.zeros(count, int), noise)
        assert np.linalg.cond(mixing.matrix().astype(np.float64)) <= 3.0 + 1e-6
        assert sum(values.size for _, values in mixing.blocks) <= BLOCK * count
        assert sorted(np.concatenate([channels for channels, _ in mixing.blocks])) == list(range(count))


def test_the_studies_noise_is_among_all_channels() -> None:
    matrix = drawn(np.zeros(40, int), 0.01, exact=False).matrix()
    assert np.count_nonzero(matrix) == 1600 and 0.009 < (matrix - np.eye(40)).std() < 0.011


@pytest.mark.parametrize("kind", KIND_NAMES)
def test_no_two_channels_are_alike(kind: KindName) -> None:
    """Not even where all kernels of X are: what a channel computes and how it is used differs from every other's."""
    count = 70
    kernels = Kernels(np.tile(np.random.default_rng(0).standard_normal((1, 5, 3, 3)), (count, 1, 1, 1)), None)
    partition = divide(parse_rule("random:0"), np.zeros(count))

    def alike(noise: float) -> int:
        parts = {
            part.name: part
            for part in split_convolution(
                "x",
                "b",
                "t",
                Geometry((3, 3), (1, 1), (1, 1)),
                kernels,
                partition,
                options=SplitOptions(kind=kind, noise=noise),
            )
        }
        reorder = np.asarray(parts["x_reorder"].blobs[0])[:, :, 0, 0]
        used = np.sort(reorder, axis=0).T
        halves = np.concatenate([parts["x_split1"].blobs[0], parts["x_split2"].blobs[0]]).reshape(count, -1)
        channels = np.concatenate([halves, used], axis=1)
        return count - len(np.unique(channels, axis=0))

    assert alike(0.01) == 0
    assert alike(0.0) > 0


@pytest.mark.parametrize("exact", [True, False])
def test_a_weight_that_is_nearly_all_zeros_is_made_only_when_it_is_asked_for(exact: bool) -> None:
    """The square weights of a wide net would take more memory than its kernels; the studies' noise is everywhere."""
    weight = drawn(np.zeros(200, int), 0.01, exact=exact).pointwise()
    assert isinstance(weight, Pointwise) == exact
    with pytest.raises(ValueError, match="made when it is asked for"):
        Pointwise(drawn(np.zeros(4, int), 0.01), 1, None).__array__(copy=False)


def test_the_same_seed_gives_the_same_bytes() -> None:
    for groups in (np.zeros(50, int), np.arange(50) // 25):
        assert drawn(groups, 0.1, 3).matrix().tobytes() == drawn(groups, 0.1, 3).matrix().tobytes()
        assert drawn(groups, 0.1, 3).matrix().tobytes() != drawn(groups, 0.1, 4).matrix().tobytes()


def test_a_split_of_a_depthwise_layer_mixes_no_channels() -> None:
    kernels = Kernels(np.ones((6, 1, 3, 3)), None)
    for kind in KIND_NAMES:
        parts = split_convolution(
            "x",
            "b",
            "t",
            Geometry((3, 3), (1, 1), (1, 1), group=6),
            kernels,
            Partition((), tuple(range(6))),
            options=SplitOptions(kind=kind),
        )
        square = [
            np.asarray(part.blobs[0])[:, :, 0, 0]
            for part in parts
            if part.blobs and part.blobs[0].shape == (6, 6, 1, 1)
        ]
        assert all(np.array_equal(np.diag(np.diag(matrix)), matrix) for matrix in square)
