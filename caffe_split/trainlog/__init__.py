"""Training logs of any Caffe: reading them, their best and final values, comparing and exporting them."""

from __future__ import annotations

from caffe_split.trainlog.columns import Table
from caffe_split.trainlog.model import Event, Run, TrainingLog
from caffe_split.trainlog.parse import Parser
from caffe_split.trainlog.read import read_log

__all__ = ["Event", "Parser", "Run", "Table", "TrainingLog", "read_log"]
