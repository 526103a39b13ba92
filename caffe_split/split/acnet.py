"""ACNet: the slow half gains a row and a column through the middle of its kernel (Ding et al., ACNet, 2019)."""

from __future__ import annotations

from caffe_split.net.geometry import Geometry
from caffe_split.split.branches import beside, middle, random_start, window
from caffe_split.split.parts import BOTTOM, Kind, SlowPath, SplitContext

ROW, COLUMN = "acnet_row", "acnet_column"


def slow_path(context: SplitContext) -> SlowPath:
    """X_split2 + row(B) + column(B), convolutions of 1xk and kx1; both start at random."""
    (height, width), (row, column) = context.geometry.kernel, middle(context.geometry)
    channels = context.original.weight.shape[1]
    return beside(
        context,
        [
            window(context, ROW, (row, 0), random_start(context, channels, 1, width)),
            window(context, COLUMN, (0, column), random_start(context, channels, height, 1)),
        ],
    )


def why_not(geometry: Geometry) -> str:
    """A kernel of one place has no row and column beside itself."""
    return "a 1x1 kernel has no rows and columns" if geometry.kernel == (1, 1) else ""


KIND = Kind(slow_path, reads={ROW: BOTTOM, COLUMN: BOTTOM}, why_not=why_not)
