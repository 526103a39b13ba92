"""Splitting one convolution: the fast half, the slow half with its added path, concat and reorder.

A partition without a fast half leaves the slow half, which then is the whole layer, with its added path.
"""

from __future__ import annotations

import zlib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.net.geometry import Geometry
from caffe_split.split import naming
from caffe_split.split.algebra import Kernels
from caffe_split.split.branch_norm import branch_ends
from caffe_split.split.kinds import KindName, check_geometry, kind_of
from caffe_split.split.mixing import Noise, Pointwise, Weight
from caffe_split.split.partition import Partition
from caffe_split.split.parts import Activation, Blob, Part, SkipPool, SplitContext, linear

Init = Literal["exact", "study"]


@dataclass(frozen=True)
class SplitOptions:
    """How layers are split; the same for all layers of one derivation.

    `init` is 'exact' (the derived net computes the baseline's function) or 'study' (the studies' numbers);
    `noise` the standard deviation of the symmetry-breaking noise; `seed` that of all noise; `branch_norm` the number of
    batches to measure for normalised branches, 0 for branches without; `added_lr` is what the lr_mult of the added
    convolutions is multiplied by.
    """

    kind: KindName = "residual"
    init: Init = "exact"
    noise: float = 0.01
    seed: int = 0
    activation: Activation = "none"
    skip_pool: SkipPool = "stride"
    branch_norm: int = 0
    added_lr: float = 1.0


def split_convolution(
    name: str,
    bottom: str,
    top: str,
    geometry: Geometry,
    kernels: Kernels,
    partition: Partition,
    *,
    options: SplitOptions,
    input_sizes: tuple[tuple[int, int] | None, ...] = (),
) -> list[Part]:
    """The layers that take the place of convolution `name`, in order; the last one's top is `top`.

    Exact start: the reorder R = permutation + noise multiplies the concat, so the concat must carry R^-1 times
    the original channels: the two halves get the rows of R^-1 times X's kernels and biases. Noise stays among
    the channels of one group, since a kernel can only be mixed with kernels that see the same inputs.
    The noise of a layer depends on the seed and on the layer's name alone, not on what else is split.
    """
    if kernels.weight.ndim != 4:
        raise CaffeSplitError(
            f"layer '{name}': its weight has shape {kernels.weight.shape}; only 2-D convolutions can be split."
        )
    check_geometry(name, options.kind, geometry)
    count, order = len(kernels.weight), list(partition.order)
    rng = np.random.default_rng([options.seed, zlib.crc32(name.encode("utf-8", "surrogateescape"))])
    groups = np.arange(count) // (count // geometry.group)
    exact = options.init == "exact"
    noise = Noise(options.noise, rng, exact)
    mixed, reorder = kernels.rows(partition.order), None
    if not partition.is_whole:
        # Noise in the order of the concat; then channel i, which stands in the concat at place j, goes to row i.
        noisy = noise.among(groups[order], mixed.sizes)
        reorder = noisy.pointwise(places=order)
        if exact:
            mixed = noisy.undone(mixed)
    fast_count = len(partition.fast)
    context = SplitContext(
        name=name,
        bottom=bottom,
        geometry=geometry,
        partition=partition,
        original=kernels,
        slow_target=_part_of(mixed, fast_count, count),
        slow_groups=groups[list(partition.slow)],
        exact=exact,
        noise=noise,
        activation=options.activation,
        skip_pool=options.skip_pool,
        input_sizes=input_sizes,
    )
    slow = kind_of(options.kind).slow_path(context)
    parts = list(slow.parts)
    if reorder is not None:
        concat = Part(naming.concat(name), "concat", (naming.fast_half(name), slow.top), naming.concat(name))
        parts += [concat, linear(naming.reorder(name), concat.top, reorder)]
    parts[-1] = replace(parts[-1], top=top)
    parts = [part if part.name == context.slow_name else replace(part, lr=options.added_lr) for part in parts]
    if partition.is_whole:
        _check_branches(name, parts, options)
    else:
        parts.insert(0, context.copy(naming.fast_half(name), _part_of(mixed, 0, fast_count)))
    return [replace(part, blobs=tuple(_stored(blob) for blob in part.blobs)) for part in parts]


def _stored(blob: Blob) -> Weight:
    return blob if isinstance(blob, Pointwise) else blob.astype(np.float32, order="C")


def _check_branches(name: str, parts: Sequence[Part], options: SplitOptions) -> None:
    """Raises `CaffeSplitError` where branches are to be normalised and the layer has only one way through."""
    if options.branch_norm and not branch_ends(parts):
        raise CaffeSplitError(
            f"layer '{name}': --branch-norm normalises branches before they are added or joined, and with --partition "
            f"all the kind {options.kind} has a single path. Leave out --branch-norm, or divide the layer."
        )


def _part_of(kernels: Kernels, start: int, stop: int) -> Kernels:
    return Kernels(kernels.weight[start:stop], None if kernels.bias is None else kernels.bias[start:stop])
