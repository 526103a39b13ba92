"""Caffe's nets on PyTorch: the same prototxt, LMDBs, weights, solver states and logs, without Caffe.

Nothing outside this package imports torch. `support` (which layers and fields are handled) does without it, so that
a net can be judged before PyTorch is loaded:

    from caffe_split.engine.net import Net
    from caffe_split.engine.solver import Solver
"""

from __future__ import annotations

import importlib.util

from caffe_split.errors import CaffeSplitError


def require_torch() -> None:
    """Raises `CaffeSplitError` where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise CaffeSplitError(
            "the torch engine needs PyTorch, which is not in this environment: ./tools/environment --torch, or "
            "pip install 'caffe-split[torch]'"
        )
