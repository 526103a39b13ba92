"""How much the loss depends on kernels: what their weights and the gradient of the loss give.

With g the gradient of the loss and w the weights, each over the weights of one kernel:

    grad-norm  ||g||         how fast the kernel would learn
    snip       sum |g w|     what the loss would lose with each weight, without signs (Lee et al., ICLR 2019)
    synflow    sum g w       the same with signs (Tanaka et al., NeurIPS 2020; DyRep's measure, Huang et al., CVPR 2022)

A layer's value is that of all its weights together: the sum of its kernels', or the norm of the whole gradient.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

Values = npt.NDArray[np.float64]


def _norm(gradient: Values, weight: Values) -> Values:
    return np.asarray(np.sqrt(np.square(gradient).sum(axis=-1)))


def _snip(gradient: Values, weight: Values) -> Values:
    return np.asarray(np.abs(gradient * weight).sum(axis=-1))


def _synflow(gradient: Values, weight: Values) -> Values:
    return np.asarray((gradient * weight).sum(axis=-1))


_FORMULAS: dict[str, Callable[[Values, Values], Values]] = {"grad-norm": _norm, "snip": _snip, "synflow": _synflow}
SALIENCIES = tuple(_FORMULAS)
# Of the sum of the sizes of its terms: below this a sum of terms that cancel is rounding in float32.
_ROUNDING = 1e-4


@dataclass(frozen=True)
class Saliency:
    """The saliency of a layer at one point of its training.

    `kernels` has an array per name of `SALIENCIES`, float64, one value per kernel (output channel); `whole` the value
    of the layer. `shape` is the weight's; biases are left out.
    """

    layer: str
    shape: tuple[int, ...]
    kernels: dict[str, Values]
    whole: dict[str, float]

    @property
    def cancels(self) -> bool:
        """Whether the terms of synflow cancel but for rounding.

        They do where the loss does not change with the size of the weights, as in front of a BatchNorm: sum g w is the
        derivative by that size.
        """
        return abs(self.whole["synflow"]) < _ROUNDING * self.whole["snip"]

    @classmethod
    def of(cls, layer: str, gradient: npt.ArrayLike, weight: npt.ArrayLike) -> Saliency:
        """From the gradient of the loss and the weights, two arrays of one shape whose first axis counts kernels."""
        g, w = (np.asarray(values, np.float64) for values in (gradient, weight))
        rows, all_in_one = (len(w), -1), (1, -1)
        return cls(
            layer,
            tuple(w.shape),
            {name: value(g.reshape(rows), w.reshape(rows)) for name, value in _FORMULAS.items()},
            {name: float(value(g.reshape(all_in_one), w.reshape(all_in_one))[0]) for name, value in _FORMULAS.items()},
        )
