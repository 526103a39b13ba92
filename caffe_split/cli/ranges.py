"""The ranges of numbers that options take."""

from __future__ import annotations

import math
from typing import Any

import click


class FiniteRange(click.FloatRange):
    """A number within bounds, as click's own, that is neither nan nor infinite: no bound keeps out nan."""

    # click's own name, `float range`, would stand in "'x' is not a valid float range".
    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        """The number as a float."""
        number = float(super().convert(value, param, ctx))
        if not math.isfinite(number):
            self.fail(f"{value!r} is not a finite number.", param, ctx)
        return number

    def _describe_range(self) -> str:
        """What the help shows; of no bounds click shows `x<=None`."""
        return super()._describe_range() if (self.min, self.max) != (None, None) else ""


class IntRange(click.IntRange):
    """A whole number within bounds, as click's own."""

    name = "integer"


# What NumPy, PyTorch and Caffe all take as a seed, and a level of a net in Caffe, which may be below 0.
SEED = IntRange(0, 2**31 - 1)
LEVEL = IntRange(-(2**31), 2**31 - 1)
