"""Means, spreads, and the confidence interval of a paired difference."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

# Student's t: the 97.5 % quantile for 1, 2, ... degrees of freedom (two-sided 95 %).
_T = (
    12.7062,
    4.3027,
    3.1824,
    2.7764,
    2.5706,
    2.4469,
    2.3646,
    2.3060,
    2.2622,
    2.2281,
    2.2010,
    2.1788,
    2.1604,
    2.1448,
    2.1314,
    2.1199,
    2.1098,
    2.1009,
    2.0930,
    2.0860,
    2.0796,
    2.0739,
    2.0687,
    2.0639,
    2.0595,
    2.0555,
    2.0518,
    2.0484,
    2.0452,
    2.0423,
)


# How many seeds a claim needs.
ENOUGH = 5


# Equal differences give an interval as wide as a rounding error.
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Interval:
    """A mean of paired differences with its 95 % confidence interval (NaN of fewer than two pairs)."""

    mean: float
    low: float
    high: float
    pairs: int

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


def t_quantile(degrees: int) -> float:
    """The 97.5 % quantile of Student's t; past the table that of 30 degrees brought towards 1.96."""
    if degrees <= len(_T):
        return _T[degrees - 1]
    return 1.959964 + (_T[-1] - 1.959964) * len(_T) / degrees


def spread(values: Sequence[float]) -> tuple[float, float]:
    """Mean and standard deviation (n - 1); NaN where there are too few values."""
    if not values:
        return math.nan, math.nan
    mean = math.fsum(values) / len(values)
    if len(values) < 2:
        return mean, math.nan
    return mean, math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def paired(differences: Sequence[float]) -> Interval:
    """The mean of paired differences and its 95 % interval, by Student's t with n - 1 degrees of freedom."""
    mean, deviation = spread(differences)
    if len(differences) < 2:
        return Interval(mean, math.nan, math.nan, len(differences))
    half = t_quantile(len(differences) - 1) * deviation / math.sqrt(len(differences))
    return Interval(mean, mean - half, mean + half, len(differences))
