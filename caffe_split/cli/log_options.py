"""What the commands that ask training logs have in common: their arguments, and how they find and read logs."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

import click

from caffe_split.cli.log_path import LogPath
from caffe_split.cli.ranges import IntRange
from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog import pipeline

if TYPE_CHECKING:
    from caffe_split.trainlog.model import TrainingLog

LOGS = click.argument("logs", nargs=-1, required=True, type=LogPath())
rank_option = click.option(
    "--rank",
    type=IntRange(0),
    help="Read the lines of this rank, in a log of several processes.  [default: the first]",
)


def net_option(default: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --net, with the default that the command has."""
    return click.option(
        "--net", type=IntRange(0), metavar="N", help=f"The test net N, of several.  [default: {default}]"
    )


THE_FIRST, ALL = "the first with that output", "all"


def say(text: str) -> None:
    """Say something of a log on standard error, a note once in a command: a log may be read in two ways."""
    context = click.get_current_context(silent=True)
    said = context.meta.setdefault(__name__, set()) if context is not None else set()
    if text in said:
        return
    said.add(text)
    # stdout holds only what the pipelines print, so that it can be compared and piped on.
    sys.stdout.flush()
    click.echo(text, err=True)


def log_at(path: str, rank: int | None) -> TrainingLog:
    """The log, with its notes said. Raises `CaffeSplitError` as `read_log`."""
    from caffe_split.trainlog.read import read_log

    log = read_log(path, rank)
    for note in log.notes:
        say(f"note: {path}: {note}")
    return log


def found_in(paths: Sequence[str]) -> list[str]:
    """The logs that are given, for a folder the logs of trainings in it, each once; a folder without one is said.

    Raises `CaffeSplitError` if there is none at all.
    """
    found = {path: pipeline.logs_under(path) for path in paths}
    if not any(found.values()):
        raise CaffeSplitError(f"no training log in {', '.join(paths)}: no file there holds lines of Caffe")
    for path, files in found.items():
        if not files:
            say(f"note: {path}: no training log in it")
    return [str(file) for file in pipeline.each_once(file for path in paths for file in found[path])]
