"""Extension: the slow half passes through X_split2_extension, a further 1x1 convolution."""

from __future__ import annotations

from caffe_split.split import naming
from caffe_split.split.parts import SLOW, Kind, SlowPath, SplitContext, linear

EXTENSION = "extension"


def slow_path(context: SplitContext) -> SlowPath:
    """extension(X_split2), the extension starting at identity + noise E; the exact start gives X_split2 E^-1."""
    slow = context.slow_name
    mixing = context.noise.among(context.slow_groups, context.slow_target.sizes)
    kernels = mixing.undone(context.slow_target) if context.exact else context.slow_target
    name = naming.added(context.name, EXTENSION)
    return SlowPath((context.copy(slow, kernels), linear(name, slow, mixing.pointwise())), name)


KIND = Kind(slow_path, reads={EXTENSION: SLOW})
