"""Caffe's nets on PyTorch: the same prototxt, LMDBs, weights, solver states and logs, without Caffe.

`Net` runs one phase of a net, `Solver` trains as a solver's prototxt says. A net is built from its text, takes weights,
and gives its blobs as tensors:

    >>> from caffe_split import engine
    >>> from caffe_split.formats import prototxt
    >>> document = prototxt.parse('''
    ...     layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
    ...     layer { name: "double" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
    ... ''', "net")
    >>> net = engine.Net(document, "TEST")
    >>> net.forward({"x": [[1, 2, 3]]}).blobs["y"].tolist()
    [[2.0, 4.0, 6.0]]

A solver trains in the current directory, as Caffe does:

    solver = engine.Solver("solver.prototxt")
    solver.step(100)
    weights, state = solver.snapshot()

`python_layer` registers PyTorch classes for Python layers.

Importing this package does not import PyTorch; the first use of `Net` or `Solver` does, and raises `CaffeSplitError`
where it is missing. Whether the engine can run a net is judged without it (`spec`). Nothing outside the engine and the
back end on it imports torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from caffe_split.engine.require import require_torch
from caffe_split.engine.spec.python_layers import python_layer

if TYPE_CHECKING:
    from caffe_split.engine.model.net import Net
    from caffe_split.engine.training.solver import Solver

__all__ = ["Net", "Solver", "python_layer", "require_torch"]

_LAZY = {"Net": "caffe_split.engine.model.net", "Solver": "caffe_split.engine.training.solver"}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    require_torch()
    return getattr(importlib.import_module(_LAZY[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_LAZY})
