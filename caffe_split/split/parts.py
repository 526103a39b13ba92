"""What a split is made of: values that say which layers stand in the place of one convolution."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np

from caffe_split.net.geometry import Geometry
from caffe_split.split.algebra import Array, Kernels
from caffe_split.split.partition import Partition

# Names end so for layers that only help an earlier split; they are never split again. (A net's own layer may be called
# conv1_skip.)
HELPER_SUFFIXES = ("_split2_residual_post", "_split2_extension", "_split2_skip", "_reorder")


def is_helper(name: str) -> bool:
    """Whether a layer of that name is a helper of an earlier split."""
    return name.endswith(HELPER_SUFFIXES)


@dataclass(frozen=True)
class Part:
    """One layer of a split.

    `role` says how it is made: 'copy' has the split layer's own text and geometry, 'helper' is a convolution of
    `geometry` without bias; 'batch_norm' and 'scale' normalise a branch; 'sum', 'concat' and 'relu' have no weights.
    `frozen` ones never learn, `lr` is their lr_mult relative to the split layer's. `blobs` are the parameters (float64,
    stored as float32): weight, then bias if it has one; mean, variance and 1; gamma and beta.
    """

    name: str
    role: str
    bottoms: tuple[str, ...]
    top: str
    num_output: int = 0
    geometry: Geometry | None = None
    frozen: bool = False
    lr: float = 1.0
    blobs: tuple[Array, ...] = ()

    @property
    def is_convolution(self) -> bool:
        return self.role in ("copy", "helper")


@dataclass(frozen=True)
class SplitContext:
    """All that a kind of split needs to know of the layer X that it divides.

    `original` are X's kernels, `slow_target` what the slow half has to compute together (X's slow kernels,
    mixed where the reorder is noisy); `input_sizes` are the (height, width) of the
    bottom in all nets that are changed, None where one is not known.
    """

    name: str
    bottom: str
    geometry: Geometry
    partition: Partition
    original: Kernels
    slow_target: Kernels
    slow_groups: np.ndarray
    exact: bool
    noise: float
    rng: np.random.Generator
    activation: str = "none"
    skip_pool: str = "stride"
    input_sizes: tuple[tuple[int, int] | None, ...] = ()
    slow_name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slow_name", f"{self.name}_split2")

    @property
    def channels(self) -> int:
        """Channels of the bottom."""
        return self.original.weight.shape[1] * self.geometry.group

    @property
    def slow_count(self) -> int:
        return len(self.partition.slow)

    def sizes_of(self, weight: Array) -> Array | None:
        """Kernels' lengths by which noise among them is scaled: in the exact start alone."""
        return Kernels(weight, None).sizes if self.exact else None

    def copy(self, name: str, kernels: Kernels) -> Part:
        """A convolution with X's text and geometry, from X's bottom."""
        bias = () if kernels.bias is None else (kernels.bias,)
        return Part(
            name,
            "copy",
            (self.bottom,),
            name,
            len(kernels.weight),
            self.geometry,
            blobs=(kernels.weight, *bias),
        )


def linear(name: str, bottom: str, matrix: Array) -> Part:
    """A 1x1 convolution without bias that multiplies the channels of `bottom` by `matrix`."""
    return Part(name, "helper", (bottom,), name, len(matrix), Geometry((1, 1)), blobs=(matrix[:, :, None, None],))


@dataclass(frozen=True)
class SlowPath:
    """The slow half of a split: its layers in order, and the blob in which it ends."""

    parts: tuple[Part, ...]
    top: str
