"""Training logs of every Caffe: read them, ask them for the best and the final, compare them, export them."""

from __future__ import annotations

from caffe_split.trainlog.model import Event, Run, TrainingLog
from caffe_split.trainlog.parse import Parser, read_log
from caffe_split.trainlog.table import Table

__all__ = ["Event", "Parser", "Run", "Table", "TrainingLog", "read_log"]
