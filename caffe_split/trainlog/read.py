"""A training log from its file."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path

from caffe_split.errors import expect_path
from caffe_split.files import PathLike
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.outputs import is_score
from caffe_split.trainlog.parse import Parser
from caffe_split.trainlog.ranks import check_rank, mixed_note
from caffe_split.trainlog.text import Text, blocks, open_log


def read_log(path: PathLike, rank: int | None = None) -> TrainingLog:
    r"""Read a whole training log, also a compressed one. Any bytes give one, possibly without runs.

    rank: of a log into which several processes wrote with their ranks before each line; None: the first. Raises
    `CaffeSplitError` if `path` is not a readable file, or has not that rank.

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
    parser, text = _parse(log, year, Text())
    if parser.several or rank is not None:
        parser, text = _of_rank(log, year, rank)
    if parser.years_gone_by:
        # The file was last written at its end, so it began that many years before.
        again = Text() if text.ranks is None else Text(several=True, rank=text.ranks.rank)
        parser, text = _parse(log, year - parser.years_gone_by, again)
    return described(parser.log(str(path), modified), text)


def described(log: TrainingLog, text: Text) -> TrainingLog:
    """The log with what is to be said of its file."""
    shown = None if text.ranks is None else text.ranks.rank
    notes, main = text.notes, log.main_output()
    if main is not None and is_score(main[1]):
        notes.append(f"its outputs have no names; {main[1]}, always between 0 and 1, is taken for the accuracy")
    mixed = mixed_note(log.runs)
    if mixed:
        notes.append(mixed)
    return replace(log, plain=text.plain, rank=shown, notes=tuple(notes))


def _of_rank(log: Path, year: int, rank: int | None) -> tuple[Parser, Text]:
    """Read one rank; None: the first, which need not be the first to write."""
    parser, text = _parse(log, year, Text(several=True, rank=rank))
    assert text.ranks is not None
    check_rank(log, text.ranks, rank)
    first = min(text.ranks.seen)
    if rank is None and first != text.ranks.rank:
        parser, text = _parse(log, year, Text(several=True, rank=first))
    return parser, text


def _parse(log: Path, year: int, text: Text) -> tuple[Parser, Text]:
    parser = Parser(year)
    for block in blocks(log, text):
        parser.feed(block)
        if parser.several and text.ranks is None:
            break  # to be read again, by ranks
    parser.finish()
    return parser, text
