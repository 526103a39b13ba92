"""TPM of one layer over one window: the ratio, its entropy, and what pure noise would give."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

ENTROPY_BINS = 10


@dataclass(frozen=True)
class LayerScores:
    """How the kernels of one layer moved over the window [start, stop].

    `displacement` and `path` are float64, one value per kernel (output channel), in units of the weights;
    `layer_displacement` and `layer_path` are the same for the whole weight tensor. `steps` is N, the number
    of sampled steps of `interval` iterations (N + 1 samples). `shape` is the weight's. `norm_start` and
    `norm_stop` are the weight tensor's L2 norm at the two ends, NaN where not known.
    """

    layer: str
    start: int
    stop: int
    interval: int
    steps: int
    shape: tuple[int, ...]
    displacement: npt.NDArray[np.float64]
    path: npt.NDArray[np.float64]
    layer_displacement: float
    layer_path: float
    norm_start: float
    norm_stop: float

    @property
    def tpm(self) -> npt.NDArray[np.float64]:
        """Displacement / path of every kernel, in [0, 1]; NaN where the kernel did not move (frozen)."""
        return ratio(self.displacement, self.path)

    @property
    def layer_tpm(self) -> float:
        """The same ratio on the whole weight tensor; NaN when frozen."""
        return float(ratio(np.array([self.layer_displacement]), np.array([self.layer_path]))[0])

    @property
    def frozen(self) -> bool:
        """True when no weight of the layer moved in the window."""
        return self.layer_path == 0

    @property
    def num_output(self) -> int:
        """How many kernels the layer has."""
        return self.shape[0]

    @property
    def num_weights(self) -> int:
        """Weights of the tensor, without biases."""
        return math.prod(self.shape)

    @property
    def entropy(self) -> float:
        """Shannon entropy (nats) of the kernels' TPM over 10 equal bins of [0, 1]; NaN when all are frozen."""
        return entropy(self.tpm)


def latest_window(scores: Sequence[LayerScores]) -> list[LayerScores]:
    """The scores of the window that ends last (of several, the longest)."""
    last = max(((score.stop, -score.start) for score in scores), default=None)
    return [score for score in scores if (score.stop, -score.start) == last]


def by_window(scores: Sequence[LayerScores]) -> list[list[LayerScores]]:
    """The scores of each window, in the order of `scores`."""
    groups: dict[tuple[int, int], list[LayerScores]] = {}
    for score in scores:
        groups.setdefault((score.start, score.stop), []).append(score)
    return list(groups.values())


def in_order(scores: Sequence[LayerScores]) -> list[list[LayerScores]]:
    """The scores of each window, the one that ends last at the end."""
    last = latest_window(scores)
    return [*(group for group in by_window(scores) if group != last), last]


def ratio(displacement: npt.NDArray[np.float64], path: npt.NDArray[np.float64]) -> npt.NDArray[np.float64]:
    """TPM = displacement / path, NaN where path is 0.

    Clipped at 1: rounding may break the triangle inequality by an ulp.
    """
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.minimum(np.where(path > 0, displacement / path, np.nan), 1.0)


def entropy(tpm: npt.NDArray[np.float64], bins: int = ENTROPY_BINS) -> float:
    """Shannon entropy in nats of the histogram of `tpm` over `bins` equal bins of [0, 1]; NaN values left out."""
    moving = tpm[~np.isnan(tpm)]
    if not len(moving):
        return math.nan
    counts, _ = np.histogram(moving, bins=bins, range=(0.0, 1.0))
    shares = counts[counts > 0] / len(moving)
    return float(-(shares * np.log(shares)).sum()) + 0.0


def mean_entropy(scores: Sequence[LayerScores]) -> float:
    """Mean of the entropies of the layers that move; NaN when none does."""
    values = [score.entropy for score in scores if not score.frozen]
    return float(np.mean(values)) if values else math.nan


def null_tpm(steps: int, interval: int = 1, momentum: float = 0.0) -> float:
    """E[TPM] of pure noise: white gradient noise driven through momentum, N = `steps` steps of `interval`.

    With velocity v_t = m v_{t-1} + e_t the sum of T successive velocities has, in each direction, variance
    proportional to S(T) = T + 2 sum_{k=1}^{T-1} (T - k) m^k. In many dimensions lengths concentrate, so that
    E[TPM] = sqrt(S(N * interval)) / (N * sqrt(S(interval))): sqrt((1+m)/(1-m)) / sqrt(N) for interval 1 and
    large N, 1 / sqrt(N) for interval >> 1 / (1 - m). Never above 1, which it is for m = 1: then noise goes straight on.
    """
    if abs(momentum) >= 1:
        return 1.0
    return min(1.0, math.sqrt(_spread(steps * interval, momentum) / _spread(interval, momentum)) / steps)


def _spread(terms: int, momentum: float) -> float:
    """S(T) of `null_tpm`, by the closed form of its sum; near m = 1, where that loses its digits, by its series."""
    m = momentum
    if terms * (1 - m) < 1e-3:
        return terms**2 - (1 - m) * (terms**3 - terms) / 3
    return terms + 2 * m * (terms * (1 - m) - 1 + m**terms) / (1 - m) ** 2


def z_scores(scores: LayerScores, momentum: float) -> npt.NDArray[np.float64]:
    """How many standard deviations each kernel's TPM lies from the null of pure noise; NaN where frozen.

    The length of a Gaussian displacement in d dimensions spreads by about 1 / sqrt(2 d) of itself, d = weights
    in the kernel; the path, a sum over many steps, by much less. Real gradients are not equally noisy in
    all directions, which widens the spread: take z as an order, not as a probability.
    """
    null, spread = _null_and_spread(scores, scores.num_weights // scores.num_output, momentum)
    return (scores.tpm - null) / spread


def z_score(scores: LayerScores, momentum: float) -> float:
    """The same for the whole layer."""
    null, spread = _null_and_spread(scores, scores.num_weights, momentum)
    return (scores.layer_tpm - null) / spread


def _null_and_spread(scores: LayerScores, weights: int, momentum: float) -> tuple[float, float]:
    null = null_tpm(scores.steps, scores.interval, momentum)
    return null, null / math.sqrt(2 * max(weights, 1))
