"""Training logs of any Caffe: reading them, their best and final values, comparing and exporting them."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from caffe_split.trainlog.columns import Table
    from caffe_split.trainlog.model import TrainingLog
    from caffe_split.trainlog.parse import Parser
    from caffe_split.trainlog.read import read_log
    from caffe_split.trainlog.run import Event, Run

__all__ = ["Event", "Parser", "Run", "Table", "TrainingLog", "read_log"]

# Imported when they are first used: `best` and `final` read most logs as the pipelines do, without NumPy.
_LAZY = {
    "Table": "columns",
    "Event": "run",
    "Run": "run",
    "TrainingLog": "model",
    "Parser": "parse",
    "read_log": "read",
}


def __getattr__(name: str) -> Any:
    if name not in _LAZY:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"caffe_split.trainlog.{_LAZY[name]}"), name)
