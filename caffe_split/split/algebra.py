"""Linear algebra of convolutions: rows mixed, identities placed, noise that stays invertible.

Kernels are float64 arrays of shape [kernels, channels / group, height, width]. Everything is computed in
float64 and rounded to float32 once, when it is stored.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from caffe_split.errors import CaffeSplitError
from caffe_split.net.geometry import Geometry

Array = npt.NDArray[np.float64]

# Noise may take at most this much of the identity's length in any direction; then the condition number of
# (identity + noise) is at most (1 + 0.5) / (1 - 0.5) = 3, and undoing it loses no more than a digit or two.
LARGEST_NOISE = 0.5


@dataclass(frozen=True)
class Kernels:
    """A convolution's parameters: `weight` [n, channels / group, height, width], `bias` [n] or None."""

    weight: Array
    bias: Array | None

    def rows(self, indices: tuple[int, ...]) -> Kernels:
        """The kernels at `indices`, in that order."""
        index = list(indices)
        return Kernels(self.weight[index], None if self.bias is None else self.bias[index])

    @property
    def sizes(self) -> Array:
        """Length (2-norm) of each kernel's weights [n]."""
        return np.asarray(np.linalg.norm(self.weight.reshape(len(self.weight), -1), axis=1), dtype=np.float64)

    def mixed(self, matrix: Array) -> Kernels:
        """Kernels whose outputs are `matrix` [m, n] times these kernels' outputs."""
        weight = np.tensordot(matrix, self.weight, axes=1)
        return Kernels(weight, None if self.bias is None else matrix @ self.bias)

    def unmixed(self, matrix: Array) -> Kernels:
        """Kernels whose outputs, multiplied by `matrix` [n, n], are these kernels' outputs."""
        count = len(self.weight)
        columns = self.weight.reshape(count, -1)
        if self.bias is not None:
            columns = np.column_stack([columns, self.bias])
        solved = np.asarray(np.linalg.solve(matrix, columns), dtype=np.float64)
        bias = None if self.bias is None else solved[:, -1]
        return Kernels(solved[:, : self.weight[0].size].reshape(self.weight.shape), bias)

    def minus(self, weight: Array) -> Kernels:
        """The same with `weight`, of the same shape, subtracted."""
        return Kernels(self.weight - weight, self.bias)


def noisy_identity(
    groups: npt.NDArray[np.intp], noise: float, rng: np.random.Generator, sizes: Array | None = None
) -> Array:
    """Identity plus Gaussian noise of standard deviation `noise` among channels of the same group.

    `groups` [n] is each channel's group. Noise that would reach LARGEST_NOISE in spectral norm, as wide
    layers make it do, is scaled down to it, so that the result can always be inverted well. `sizes` [n] are the
    lengths of the kernels behind the channels: what a larger one adds to a smaller one is then scaled down to the
    smaller one's size. Otherwise undoing it would cost a small channel its digits, and a BatchNorm may enlarge it.
    """
    count = len(groups)
    if noise == 0:
        return np.eye(count)
    # In place: these matrices are what a wide layer's derivation spends its time on.
    drawn = rng.standard_normal((count, count))
    drawn *= noise
    if groups.min() != groups.max():
        drawn *= groups[:, None] == groups[None, :]
    if sizes is not None and sizes.min() != sizes.max():
        # A kernel of zeros adds nothing to others, whatever its share of them.
        share = sizes[:, None] / np.maximum(sizes, np.finfo(np.float64).tiny)[None, :]
        drawn *= np.minimum(share, 1.0, out=share)
    length = _length(drawn)
    if length > LARGEST_NOISE:
        drawn *= LARGEST_NOISE / length
    drawn[np.diag_indices(count)] += 1.0
    return drawn


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


def aligned_position(geometry: Geometry, what: str) -> tuple[int, int]:
    """The place (row, column) in the kernel that lies on the input pixel (stride * y, stride * x) of output (y, x).

    That is pad / dilation. Raises `CaffeSplitError` where no place of the kernel lies there.
    """
    rows, columns = (
        pad // dilation if pad % dilation == 0 and pad // dilation < size else -1
        for pad, dilation, size in zip(geometry.pad, geometry.dilation, geometry.kernel)
    )
    if min(rows, columns) < 0:
        raise CaffeSplitError(
            f"{what}: no place of its kernel lies on the pixel that a skip would carry over (kernel "
            f"{geometry.kernel}, pad {geometry.pad}, dilation {geometry.dilation}). Choose another kind for it."
        )
    return rows, columns


def identity_channels(slow: tuple[int, ...], kernels: int, channels: int, group: int) -> list[int | None]:
    """For each slow kernel the input channel that an identity selects: its own index, or None.

    None where there is no such channel, or where it lies in another group than the kernel, out of the reach
    of its own weights.
    """
    per_kernel, per_channel = kernels // group, channels // group
    return [i if i < channels and i // per_channel == i // per_kernel else None for i in slow]
