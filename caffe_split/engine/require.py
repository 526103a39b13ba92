"""Whether PyTorch is there, asked without importing it."""

from __future__ import annotations

import importlib.util

from caffe_split.errors import CaffeSplitError


def require_torch() -> None:
    """Raises `CaffeSplitError` where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise CaffeSplitError(
            "the torch engine needs PyTorch, which is not in this environment: ./tools/environment --torch, or "
            "pip install torch"
        )
