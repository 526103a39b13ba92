"""Residual: the slow half gains X_split2_residual_post( X_split2_residual_pre( bottom ) )."""

from __future__ import annotations

import numpy as np

from caffe_split.split import naming
from caffe_split.split.algebra import Array, Kernels
from caffe_split.split.mixing import Weight
from caffe_split.split.parts import BOTTOM, Kind, Part, SlowPath, SplitContext, linear

PRE, POST = "residual_pre", "residual_post"


def slow_path(context: SplitContext) -> SlowPath:
    """X_split2 + post(pre(B)), summed into a new top.

    The studies' start: pre = `pre_weight` of X_split2's kernels, post = identity + noise. In the exact start
    X_split2 takes post * pre off, where that is linear; after a ReLU post starts at zero instead.
    """
    slow, relu = context.slow_name, context.activation == "relu"
    pre = pre_weight(context.original.rows(context.partition.slow).weight)
    mixing = context.noise.among(context.slow_groups, Kernels(pre, None).sizes)
    post: Weight = mixing.pointwise()
    kernels = context.slow_target
    if context.exact and relu:
        post = np.zeros(post.shape, np.float32)
    elif context.exact:
        kernels = kernels.minus(mixing.applied(pre))

    pre_name, post_name = naming.added(context.name, PRE), naming.added(context.name, POST)
    total = naming.total(context.name)
    parts = [context.copy(slow, kernels), context.copy(pre_name, Kernels(pre, None))]
    if relu:
        parts.append(Part(naming.added(context.name, "residual_relu"), "relu", (pre_name,), pre_name))
    parts.append(linear(post_name, pre_name, post))
    parts.append(Part(total, "sum", (slow, post_name), total))
    return SlowPath(tuple(parts), total)


def pre_weight(weight: Array) -> Array:
    """The studies' start of residual_pre: -0.2 W, and +2 W more at the spatial centre only.

    The centre of an even side k is k // 2.
    """
    height, width = weight.shape[2] // 2, weight.shape[3] // 2
    pre = -0.2 * weight
    pre[:, :, height, width] += 2.0 * weight[:, :, height, width]
    return pre


KIND = Kind(slow_path, reads={PRE: BOTTOM, POST: PRE}, again=frozenset({PRE}))
