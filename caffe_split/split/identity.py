"""Identity: the slow half gains X_split2_identity of the bottom, the skip that learns."""

from __future__ import annotations

from caffe_split.split.branches import beside
from caffe_split.split.parts import BOTTOM, Kind, SlowPath, SplitContext
from caffe_split.split.skip import identity_branch

IDENTITY = "identity"


def slow_path(context: SplitContext) -> SlowPath:
    """X_split2 + identity(B), which starts as the skip and learns as X does, among the channels of one group."""
    return beside(context, [identity_branch(context, IDENTITY, learns=True)])


KIND = Kind(slow_path, reads={IDENTITY: BOTTOM})
