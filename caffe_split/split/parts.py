"""What a split is made of: values that say which layers stand in the place of one convolution."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal, Union

import numpy as np

from caffe_split.net.geometry import Geometry
from caffe_split.split import naming
from caffe_split.split.algebra import Array, Kernels
from caffe_split.split.mixing import Noise, Weight
from caffe_split.split.partition import Partition

# How a part is made: 'copy' has the split layer's own text and geometry, 'helper' is a convolution of its own geometry
# without bias; 'batch_norm' and 'scale' normalise a branch; 'sum', 'concat' and 'relu' have no weights.
Form = Literal["copy", "helper", "batch_norm", "scale", "sum", "concat", "relu"]
Activation = Literal["none", "relu"]
Blob = Union[Array, Weight]
SkipPool = Literal["stride", "average"]


@dataclass(frozen=True)
class Part:
    """One layer of a split.

    `geometry` is that of a convolution. A `frozen` layer never learns; `lr` is its lr_mult relative to the split
    layer's. `blobs` are the parameters (in the end float32, as they are stored): weight, then bias if it has one; mean,
    variance and 1; gamma and beta. NumPy takes them all as arrays; a square weight may be made only then.
    """

    name: str
    form: Form
    bottoms: tuple[str, ...]
    top: str
    num_output: int = 0
    geometry: Geometry | None = None
    frozen: bool = False
    lr: float = 1.0
    blobs: tuple[Blob, ...] = ()

    @property
    def is_convolution(self) -> bool:
        """Whether it is a convolution."""
        return self.form in ("copy", "helper")


@dataclass(frozen=True)
class SplitContext:
    """What a kind of split needs to know of the layer X that it divides.

    `original` are X's kernels. `slow_target` are the kernels that the slow half and its added path compute together:
    X's slow kernels, mixed where the reorder is noisy. `input_sizes` are the (height, width) of the bottom in each net
    that is changed, None where one is not known.
    """

    name: str
    bottom: str
    geometry: Geometry
    partition: Partition
    original: Kernels
    slow_target: Kernels
    slow_groups: np.ndarray
    exact: bool
    noise: Noise
    activation: Activation = "none"
    skip_pool: SkipPool = "stride"
    input_sizes: tuple[tuple[int, int] | None, ...] = ()
    slow_name: str = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "slow_name", naming.slow_half(self.name))

    @property
    def channels(self) -> int:
        """Channels of the bottom."""
        return int(self.original.weight.shape[1]) * self.geometry.group

    @property
    def slow_count(self) -> int:
        """How many kernels are slow."""
        return len(self.partition.slow)

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

    def convolution(
        self, word: str, geometry: Geometry, weight: Blob, *, bottom: str = "", frozen: bool = False
    ) -> Part:
        """An added convolution with `word` in its name, without bias, of X's bottom or else of the blob `bottom`."""
        name = naming.added(self.name, word)
        bottoms = (bottom or self.bottom,)
        return Part(name, "helper", bottoms, name, len(weight), geometry, frozen=frozen, blobs=(weight,))


def linear(name: str, bottom: str, weight: Blob) -> Part:
    """A 1x1 convolution of `bottom` without bias."""
    return Part(name, "helper", (bottom,), name, len(weight), Geometry((1, 1)), blobs=(weight,))


@dataclass(frozen=True)
class SlowPath:
    """The slow half of a split: its layers in order, and the blob in which it ends."""

    parts: tuple[Part, ...]
    top: str


# What a layer of the slow half reads: X's bottom, or the slow half.
BOTTOM, SLOW = "", "split2"


@dataclass(frozen=True)
class Kind:
    """A kind of split: what it adds to the slow half.

    `slow_path` makes the slow half's layers. `reads` says how they are wired: the word of each added convolution (see
    `naming.added`) -> what it reads, `BOTTOM`, `SLOW` or another word. What no other layer reads is summed, if it is
    more than one. `again` are the words of those that have X's own geometry and may be split again. `why_not` says
    why the kind has no meaning for an X of that geometry; '' where it has one.
    """

    slow_path: Callable[[SplitContext], SlowPath]
    reads: Mapping[str, str]
    again: frozenset[str] = frozenset()
    why_not: Callable[[Geometry], str] = lambda geometry: ""

    def has_made(self, added: Mapping[str, str]) -> bool:
        """Whether convolutions that read each other so are the kind's, or what is left of it without some branches."""
        ends = added.keys() - set(added.values())
        return (
            bool(added) and added.items() <= self.reads.items() and ends <= self.reads.keys() - {*self.reads.values()}
        )
