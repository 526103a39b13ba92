"""Several logs exported at once, as CSV, JSON and event files."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from caffe_split.trainlog import export, tfevents
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.query import names_of


def export_logs(
    logs: Sequence[TrainingLog], csv: str | None = None, series: str | None = None, tensorboard: str | None = None
) -> list[Path]:
    """Write the files of each log into the given folders; returns the paths of all files.

    `csv` gets the tables in the form of BVLC's parse_log.py, `series` all runs, tables and events as JSON,
    `tensorboard` event files. Logs of the same name, such as train.log of several runs, get a folder each.
    """
    names = names_of([log.path for log in logs])
    alike = len({Path(log.path).name for log in logs}) < len(logs)
    written: list[Path] = []
    for log, name in zip(logs, names):
        if csv:
            written += export.write_csv(log, Path(csv, name) if alike else csv)
        if series:
            written.append(export.write_json(log, Path(series, name) if alike else series))
        if tensorboard:
            written.append(tfevents.write_events(log, tensorboard, name))
    return written
