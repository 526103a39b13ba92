"""Caffe's nets on PyTorch: the same prototxt, LMDBs, weights, solver states and logs, without Caffe.

`Net` and `Solver` are imported when they are first used, and PyTorch with them: `engine.spec`, which says which layers
and fields are handled, does without it.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

from caffe_split.errors import CaffeSplitError

if TYPE_CHECKING:
    from caffe_split.engine.model.net import Net
    from caffe_split.engine.training.solver import Solver

__all__ = ["Net", "Solver", "require_torch"]

_LAZY = {"Net": "model.net", "Solver": "training.solver"}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        require_torch()
        return getattr(importlib.import_module(f"{__name__}.{_LAZY[name]}"), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def require_torch() -> None:
    """Raises `CaffeSplitError` where PyTorch is not installed."""
    if importlib.util.find_spec("torch") is None:
        raise CaffeSplitError(
            "the torch engine needs PyTorch, which is not in this environment: ./tools/environment --torch, or "
            "pip install 'caffe-split[torch]'"
        )
