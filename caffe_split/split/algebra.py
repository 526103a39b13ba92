"""Linear algebra of convolutions: rows mixed, identities placed.

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

    def minus(self, weight: Array) -> Kernels:
        """The same with `weight`, of the same shape, subtracted."""
        return Kernels(self.weight - weight, self.bias)


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
