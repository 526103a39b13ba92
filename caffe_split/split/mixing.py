"""Identity plus noise: matrices that mix channels and break their symmetry, and what undoes them.

In the exact start the noise lies in small blocks, so that undoing it costs no more than reading the weights. In the
studies' start all channels of a group are mixed with each other, and nothing is undone.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Union

import numpy as np
import numpy.typing as npt

from caffe_split.split.algebra import Array, Kernels

# Noise may take at most this much of the identity's length in any direction; then the condition number of
# (identity + noise) is at most (1 + 0.5) / (1 - 0.5) = 3, and undoing it loses no more than a digit or two.
LARGEST_NOISE = 0.5

# How many channels are mixed with each other in the exact start, at most.
BLOCK = 16
_TINY = float(np.finfo(np.float64).tiny)
# Which noise a seed gives; it changes if the same seed comes to give other numbers.
NOISE_FORMS = {"exact": f"blocks of {BLOCK} channels", "study": "all channels"}


@dataclass(frozen=True)
class Mixing:
    """A matrix [count, count]: the identity, except among the channels of each block.

    `blocks` are pairs of the block's channels, ascending, and the matrix among them; all of one group.
    """

    count: int
    blocks: tuple[tuple[npt.NDArray[np.intp], Array], ...] = ()

    def matrix(self, group: int = 1, places: Sequence[int] | None = None) -> npt.NDArray[np.float32]:
        """The matrix as a 1x1 convolution of `group` groups has it: float32 [count, count / group].

        `places` [count] is where each row goes; None: it stays.
        """
        per_group = self.count // group
        every = np.arange(self.count)
        rows = every if places is None else np.asarray(places, np.intp)
        matrix = np.zeros((self.count, per_group), dtype=np.float32)
        matrix[rows, every % per_group] = 1.0
        for channels, values in self.blocks:
            matrix[rows[channels][:, None], channels[None, :] % per_group] = values
        return matrix

    def pointwise(self, group: int = 1, places: Sequence[int] | None = None) -> Weight:
        """`matrix` as a weight [count, count / group, 1, 1].

        In the exact start, whose matrices are nearly all zeros, it is made anew each time that NumPy asks for it: the
        square matrices of a wide net would take more memory than all its kernels.
        """
        weight = Pointwise(self, group, places)
        held = sum(values.nbytes for _, values in self.blocks)
        return weight if held < weight.nbytes // 2 else np.asarray(weight)

    def applied(self, weight: Array) -> Array:
        """The matrix times `weight` [count, ...]."""
        product = weight.copy()
        for channels, values in self.blocks:
            rows = weight[channels]
            product[channels] = (values @ rows.reshape(len(rows), -1)).reshape(rows.shape)
        return product

    def undone(self, kernels: Kernels) -> Kernels:
        """Kernels whose outputs, multiplied by the matrix, are those of `kernels`."""
        if not self.blocks:
            return kernels
        # A block's condition number is at most 3: its inverse is as good as solving, and quicker for many weights.
        inverse = replace(
            self,
            blocks=tuple((channels, np.asarray(np.linalg.inv(values), np.float64)) for channels, values in self.blocks),
        )
        return Kernels(inverse.applied(kernels.weight), None if kernels.bias is None else inverse.applied(kernels.bias))

    def before(self, weight: Array, group: int) -> Array:
        """The kernels [m, count / group, height, width] that see what the matrix makes of their `group`s' channels."""
        if not self.blocks:
            return weight
        seen, per_group, rows_each = weight.copy(), self.count // group, len(weight) // group
        for channels, values in self.blocks:
            first = channels[0] // per_group * rows_each
            own, columns = weight[first : first + rows_each], channels % per_group
            product = np.tensordot(own[:, columns], values, axes=(1, 0))
            seen[first : first + rows_each, columns] = np.moveaxis(product, -1, 1)
        return seen


class Pointwise:
    """The weight that `Mixing.pointwise` describes, as NumPy takes it: `np.asarray` makes the array."""

    dtype = np.dtype(np.float32)

    def __init__(self, mixing: Mixing, group: int, places: Sequence[int] | None) -> None:
        self.shape = (mixing.count, mixing.count // group, 1, 1)
        self.nbytes = self.dtype.itemsize * math.prod(self.shape)
        self._mixing, self._group, self._places = mixing, group, places

    def __len__(self) -> int:
        return self.shape[0]

    def __array__(self, dtype: npt.DTypeLike | None = None, copy: bool | None = None) -> npt.NDArray[Any]:
        if copy is False:
            raise ValueError("this weight is made when it is asked for: there is none to share")
        matrix = self._mixing.matrix(self._group, self._places)
        return matrix.reshape(self.shape).astype(dtype or self.dtype, copy=False)


Weight = Union[Pointwise, npt.NDArray[np.float32]]


@dataclass(frozen=True)
class Noise:
    """Gaussian noise of standard deviation `deviation` that is drawn from `rng`.

    `exact`: of the exact start, which has to undo it; otherwise of the studies' start.
    """

    deviation: float
    rng: np.random.Generator
    exact: bool

    def among(self, groups: npt.NDArray[np.intp], sizes: Array | None = None) -> Mixing:
        """Identity plus noise among channels of the same group.

        `groups` [n] is each channel's group. `sizes` [n] are the lengths of the kernels after the channels, which the
        exact start respects.
        """
        if self.deviation == 0:
            return Mixing(len(groups))
        if self.exact:
            return _exact_noise(groups, self.deviation, self.rng, sizes)
        return _study_noise(groups, self.deviation, self.rng)


def _exact_noise(groups: npt.NDArray[np.intp], noise: float, rng: np.random.Generator, sizes: Array | None) -> Mixing:
    """Noise among up to BLOCK channels, which are taken from the whole width of a group.

    Noise that would reach LARGEST_NOISE in spectral norm is scaled down to it, block by block, so that the matrix can
    be undone well. What a larger kernel adds to a smaller one is scaled down to the smaller one's size. Otherwise
    undoing it would cost a small channel its digits, and a BatchNorm may enlarge it.
    """
    blocks = []
    for group in np.unique(groups):
        members = np.flatnonzero(groups == group)
        count = -(-len(members) // BLOCK)
        for start in range(count):
            channels = members[start::count]
            drawn = noise * rng.standard_normal((len(channels), len(channels)))
            if sizes is not None:
                # A kernel of zeros adds nothing to others, whatever its share of them.
                own = sizes[channels] / max(float(sizes[channels].max()), _TINY)
                drawn *= np.minimum(own[:, None] / np.maximum(own, _TINY)[None, :], 1.0)
            # The Frobenius norm, which is never smaller, costs less.
            length = float(np.linalg.norm(drawn))
            if length > LARGEST_NOISE:
                length = float(np.linalg.norm(drawn, 2))
            if length > LARGEST_NOISE:
                drawn *= LARGEST_NOISE / length
            blocks.append((channels, drawn + np.eye(len(channels))))
    return Mixing(len(groups), tuple(blocks))


def _study_noise(groups: npt.NDArray[np.intp], noise: float, rng: np.random.Generator) -> Mixing:
    """The studies' noise, among all channels of a group; scaled down to LARGEST_NOISE as a whole."""
    count = len(groups)
    # In place: these matrices are what a wide layer's derivation spends its time on.
    drawn = rng.standard_normal((count, count))
    drawn *= noise
    if groups.min() != groups.max():
        drawn *= groups[:, None] == groups[None, :]
    length = _length(drawn)
    if length > LARGEST_NOISE:
        drawn *= LARGEST_NOISE / length
    drawn[np.diag_indices(count)] += 1.0
    members = [np.flatnonzero(groups == group) for group in np.unique(groups)]
    return Mixing(count, tuple((channels, drawn[np.ix_(channels, channels)]) for channels in members))


def _length(matrix: Array) -> float:
    """An upper bound of the matrix's spectral norm, at most a tenth above it for a matrix that is too long.

    By power iteration, which approaches it from below: the singular values of a wide layer would take most of a
    derivation's time. A short Frobenius norm is bound enough.
    """
    whole = float(np.linalg.norm(matrix))
    if whole <= LARGEST_NOISE:
        return whole
    direction = np.ones(len(matrix))
    length = 0.0
    for _ in range(40):
        direction = matrix.T @ (matrix @ (direction / np.linalg.norm(direction)))
        length = float(np.sqrt(np.linalg.norm(direction)))
    return min(1.1 * length, whole)
