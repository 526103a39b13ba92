"""A Caffe-compatible toolkit: measure how kernels move, split convolutions by it, train on.

The names below are imported when they are first used, so that a command on a log does not wait for numpy.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from caffe_split.errors import CaffeSplitError

if TYPE_CHECKING:
    from caffe_split.formats.prototxt.nets import read_net, read_solver
    from caffe_split.formats.weights.caffemodel import read_weights, write_weights

__version__ = "0.1.0"

__all__ = ["CaffeSplitError", "read_net", "read_solver", "read_weights", "write_weights"]

_LAZY = {
    "read_net": "caffe_split.formats.prototxt.nets",
    "read_solver": "caffe_split.formats.prototxt.nets",
    "read_weights": "caffe_split.formats.weights.caffemodel",
    "write_weights": "caffe_split.formats.weights.caffemodel",
}


def __getattr__(name: str) -> Any:
    if name in _LAZY:
        return getattr(importlib.import_module(_LAZY[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *_LAZY])
