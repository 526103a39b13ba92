"""DBB: the slow half gains a 1x1, a 1x1 before a kxk, and a 1x1 before an average (Ding et al., DBB, 2021)."""

from __future__ import annotations

import numpy as np

from caffe_split.net.geometry import Geometry
from caffe_split.split.branches import Branch, beside, middle, random_start, window
from caffe_split.split.parts import BOTTOM, Kind, SlowPath, SplitContext

ONE, PRE, KXK = "dbb_1x1", "dbb_kxk_pre", "dbb_kxk"
AVERAGE_PRE, AVERAGE = "dbb_average_pre", "dbb_average"


def slow_path(context: SplitContext) -> SlowPath:
    """X_split2 + 1x1(B) + kxk(1x1(B)) + average(1x1(B)).

    The 1x1 before the kxk keeps the number of channels and starts at identity + noise, as DBB's; the kxk has X's
    geometry and starts at random. The average has X's geometry, too, and never learns.
    """
    one = random_start(context, context.original.weight.shape[1], 1, 1)
    return beside(context, [window(context, ONE, middle(context.geometry), one), _kxk(context), _average(context)])


def _kxk(context: SplitContext) -> Branch:
    geometry, per_group = context.geometry, context.original.weight.shape[1]
    mixing = context.noise.among(np.arange(context.channels) // per_group)
    weight = random_start(context, per_group, *geometry.kernel)
    pointwise = mixing.pointwise(geometry.group)
    pre = context.convolution(PRE, Geometry((1, 1), group=geometry.group), pointwise)
    kxk = context.convolution(KXK, geometry, weight, bottom=pre.top)
    return Branch((pre, kxk), mixing.before(weight, geometry.group) if context.exact else None)


def _average(context: SplitContext) -> Branch:
    geometry, count = context.geometry, context.slow_count
    height, width = geometry.kernel
    weight = random_start(context, context.original.weight.shape[1], 1, 1)
    pre = context.convolution(AVERAGE_PRE, Geometry((1, 1), group=geometry.group), weight)
    each = Geometry(geometry.kernel, geometry.stride, geometry.pad, geometry.dilation, count)
    share = np.full((count, 1, height, width), 1.0 / (height * width))
    average = context.convolution(AVERAGE, each, share, bottom=pre.top, frozen=True)
    kernel = np.broadcast_to(weight / (height * width), (*weight.shape[:2], height, width))
    return Branch((pre, average), kernel)


def why_not(geometry: Geometry) -> str:
    """Over one place there is nothing to average, and a kxk is a 1x1."""
    return "a 1x1 kernel has no places to average" if geometry.kernel == (1, 1) else ""


KIND = Kind(
    slow_path,
    reads={ONE: BOTTOM, PRE: BOTTOM, KXK: PRE, AVERAGE_PRE: BOTTOM, AVERAGE: AVERAGE_PRE},
    why_not=why_not,
)
