"""Means, spreads, and the confidence interval of a paired difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# How many seeds a claim needs.
ENOUGH = 5


# Equal differences give an interval as wide as a rounding error.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """A mean of paired differences with its 95 % confidence interval (NaN of fewer than two pairs).

    `together` is the interval of one among several comparisons: all of theirs are right with at least 95 %.
    """

    mean: float
    low: float
    high: float
    pairs: int
    together: tuple[float, float] = (math.nan, math.nan)

    @property
    def reading(self) -> str:
        """What the interval supports, in words."""
        if math.isnan(self.low):
            return "one pair or none: no interval"
        if self.high - self.low < _ROUNDING:
            return "all pairs alike: no interval"
        few = f" ({self.pairs} seeds: too few for a claim)" if self.pairs < ENOUGH else ""
        if self.low <= 0 <= self.high:
            return "not distinguishable from zero" + few
        return ("above zero" if self.low > 0 else "below zero") + few


def t_quantile(degrees: int, outside: float = 0.05) -> float:
    """The value that Student's t exceeds, in absolute value, with the probability `outside`.

    By bisection of the distribution in its closed form for whole degrees of freedom (Abramowitz and Stegun, Handbook
    of mathematical functions, 26.7.3 and 26.7.4).

    >>> round(t_quantile(4), 4)
    2.7764
    """
    low, high = 0.0, math.pi / 2
    while high - low > 1e-15:
        middle = (low + high) / 2
        low, high = (middle, high) if _within(middle, degrees) < 1 - outside else (low, middle)
    return math.sqrt(degrees) * math.tan(low)


def _within(angle: float, degrees: int) -> float:
    """The probability that |t| is below sqrt(degrees) tan(angle)."""
    cosine, odd = math.cos(angle), degrees % 2
    term = total = (cosine if degrees > 1 else 0.0) if odd else 1.0
    for factor in range(2 + odd, degrees - 1, 2):
        term *= (factor - 1) / factor * cosine * cosine
        total += term
    total *= math.sin(angle)
    return 2 / math.pi * (angle + total) if odd else total


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1); NaN where there are too few values."""
    if not values:
        return math.nan, math.nan
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired(differences: Sequence[float], comparisons: int = 1) -> Interval:
    """The mean of paired differences and its 95 % interval, by Student's t with n - 1 degrees of freedom.

    `together` is wider, so that as many intervals as there are `comparisons` are right together with a probability of
    at least 95 % (Bonferroni's correction).
    """
    mean, deviation = spread(differences)
    if len(differences) < 2:
        return Interval(mean, math.nan, math.nan, len(differences))
    error, degrees = deviation / math.sqrt(len(differences)), len(differences) - 1
    half, wide = (t_quantile(degrees, outside) * error for outside in (0.05, 0.05 / comparisons))
    return Interval(mean, mean - half, mean + half, len(differences), (mean - wide, mean + wide))
