"""A training log from its file."""

from __future__ import annotations

import time
from pathlib import Path

from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.files import PathLike
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.parse import Parser

# Bytes per read.
BLOCK = 1 << 21


def open_log(path: PathLike) -> tuple[Path, float]:
    """Check that `path` is a readable file; returns it with its time of change (seconds since 1970).

    Raises `CaffeSplitError` if it is not.
    """
    log = Path(path)
    try:
        state = log.stat()
        if log.is_dir():
            raise CaffeSplitError(f"{log} is a folder; expected a training log, e.g. {log / 'train.log'}")
        with log.open("rb"):
            pass
    except OSError as error:
        raise CaffeSplitError(f"cannot read the log {log}: {error.strerror}") from error
    return log, state.st_mtime


def read_log(path: PathLike) -> TrainingLog:
    r"""Read a whole training log. Any bytes give one, possibly without runs.

    Raises `CaffeSplitError` if `path` is not a readable file.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "train.log")
    >>> with open(path, "w") as stream:
    ...     for second, (iteration, accuracy) in enumerate([(0, 0.1), (100, 0.9), (200, 0.8)]):
    ...         start = f"I1128 10:00:0{second}.000000  7 solver.cpp:1] "
    ...         _ = stream.write(f"{start}Iteration {iteration}, Testing net (#0)\n")
    ...         _ = stream.write(f"{start}    Test net output #0: accuracy = {accuracy}\n")
    >>> log = read_log(path)
    >>> log.best().value, log.best().iteration, log.final().value
    (0.9, 100, 0.8)
    >>> log.table("tests")["accuracy"].tolist()
    [0.1, 0.9, 0.8]
    """
    expect_path(path, "a log")
    log, modified = open_log(path)
    year = time.localtime(modified).tm_year
    parser = _parse(log, year)
    if parser.years_gone_by:
        # The file was last written at its end, so it began that many years before.
        parser = _parse(log, year - parser.years_gone_by)
    return parser.log(str(path), modified)


def _parse(log: Path, year: int) -> Parser:
    parser = Parser(year)
    with log.open("rb", buffering=0) as stream:
        while block := stream.read(BLOCK):
            parser.feed(block)
    parser.finish()
    return parser
