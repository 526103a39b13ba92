"""The weights of a grouped convolution written with one group, and the other way round."""

from __future__ import annotations

import numpy as np

from caffe_split.split.affine import CannotFoldError
from caffe_split.split.algebra import Array


def ungrouped(weight: Array, group: int) -> Array:
    """The same convolution with one group: zeros where a kernel does not see a channel."""
    if group == 1:
        return weight
    count, per_group = weight.shape[:2]
    dense = np.zeros((count, per_group * group, *weight.shape[2:]))
    for g, rows in enumerate(np.split(np.arange(count), group)):
        dense[rows, g * per_group : (g + 1) * per_group] = weight[rows]
    return dense


def grouped(weight: Array, group: int) -> Array:
    """The weights [n, C / group, ...] of a grouped convolution, from those with one group [n, C, ...].

    Raises `CannotFoldError` where kernels see channels of another group.
    """
    if group == 1:
        return weight
    count, channels = weight.shape[:2]
    per_group = channels // group
    compact = np.concatenate(
        [weight[rows, g * per_group : (g + 1) * per_group] for g, rows in enumerate(np.split(np.arange(count), group))]
    )
    outside = np.abs(weight - ungrouped(compact, group)).max(initial=0)
    # What lies below float32's rounding of the largest weight cannot be distinguished from zero.
    if outside > np.abs(weight).max(initial=0) * np.finfo(np.float32).eps:
        raise CannotFoldError(
            f"its kernels have learnt to look into other groups than their own (weights up to {outside:.2g}), which a "
            f"convolution of {group} groups cannot; `caffe-split fold --ungroup` makes it one of group 1"
        )
    return compact
