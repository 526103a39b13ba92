"""1x1: the slow half gains X_split2_conv1x1, a 1x1 convolution of the bottom (Ding et al., RepVGG, 2021)."""

from __future__ import annotations

from caffe_split.split.branches import beside, middle, random_start, window
from caffe_split.split.parts import BOTTOM, Kind, SlowPath, SplitContext

CONV1X1 = "conv1x1"


def slow_path(context: SplitContext) -> SlowPath:
    """X_split2 + conv1x1(B), which sees the pixel in the middle of X's kernel; it starts at random."""
    weight = random_start(context, context.original.weight.shape[1], 1, 1)
    return beside(context, [window(context, CONV1X1, middle(context.geometry), weight)])


KIND = Kind(slow_path, reads={CONV1X1: BOTTOM})
