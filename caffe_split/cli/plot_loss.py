"""`plot_loss.py`: draw training logs, live in a window, in a notebook, or into a file."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from caffe_split.cli.given import check_given
from caffe_split.cli.log_options import ALL, found_in, net_option, rank_option
from caffe_split.cli.log_path import LogPath
from caffe_split.cli.ranges import FiniteRange, IntRange
from caffe_split.errors import CaffeSplitError
from caffe_split.files import check_ours
from caffe_split.plot import figure as picture
from caffe_split.plot.picture_file import SIGN, picture_format, write_picture
from caffe_split.plot.series import collect
from caffe_split.plot.window import screen, show
from caffe_split.trainlog.follow import Follower

SIZE = (9.0, 7.5)  # inches
DEFAULT_FILE = "loss.png"


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("logs", nargs=-1, required=True, type=LogPath())
@click.option(
    "--avg",
    "average",
    default=1,
    show_default=True,
    type=IntRange(1),
    metavar="N",
    help="Mean of the train loss over N displays, the raw curve faint behind it.",
)
@click.option("--no_refresh", "--no-refresh", is_flag=True, help="Draw once; otherwise follow the growing logs.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write this PNG, SVG or PDF; open no window.")
@click.option(
    "--x",
    "x_axis",
    type=click.Choice(["iteration", "time"]),
    default="iteration",
    show_default=True,
    help="What the x axis shows.",
)
@click.option("--outputs", default="", metavar="NAME,NAME", help="Draw only these train and test outputs.")
@click.option("--log", "log_scale", is_flag=True, help="Logarithmic loss axes.")
@click.option(
    "--every",
    type=FiniteRange(min=0, min_open=True),
    default=2.0,
    show_default=True,
    help="Seconds between two looks at growing logs.",
)
@net_option(ALL)
@rank_option
def command(
    logs: tuple[str, ...],
    average: int,
    no_refresh: bool,
    out: str | None,
    x_axis: str,
    outputs: str,
    log_scale: bool,
    every: float,
    net: int | None,
    rank: int | None,
) -> int:
    """Draw the train loss, test accuracy and test loss of training LOGs, best points marked.

    A folder stands for every log of a training inside it.

    \b
    Example:
      plot_loss.py baseline/train.log derived1/train.log --avg 3 --no_refresh
    """
    check_given("best", command.params, {"logs": logs})  # which takes the same
    if out is not None:
        picture_format(out)
    followers, status = _open(logs, rank)
    empty: list[str] = []  # the logs of which nothing was drawn
    chosen = [name for name in outputs.split(",") if name]

    def draw(target: Any) -> None:
        nonlocal empty
        curves = collect([follower.log for follower in followers], x_axis, chosen, net)
        picture.draw(target, curves, average, log_scale)
        shown = {curve.run for curve in (*curves.train, *curves.accuracy, *curves.loss)}
        empty = [name for run, name in enumerate(curves.names) if run not in shown]

    kind, why = ("file", "") if out is not None else screen()
    if kind == "file":
        path = out or DEFAULT_FILE
        check_ours(Path(path), SIGN.encode(), "picture that plot_loss.py of this version drew")
        write_picture(Path(path), draw, force=True, size=SIZE)
        for name in empty:
            click.echo(f"note: {name}: no value in it to draw", err=True)
        click.echo(f"{why}wrote {path}")
    else:
        show(draw, SIZE, followers if kind == "window" and not no_refresh else [], every)
    return status


def _open(logs: Sequence[str], rank: int | None) -> tuple[list[Follower], int]:
    """A follower for each readable log, in a folder for each log, and the status: 1 if some cannot be read.

    Raises `CaffeSplitError` if none can be.
    """
    followers, status = [], 0
    for path in found_in(logs):
        try:
            follower = Follower(path, rank)
            follower.poll()
            followers.append(follower)
            for note in follower.log.notes:
                click.echo(f"note: {path}: {note}", err=True)
        except CaffeSplitError as error:
            click.echo(f"plot_loss.py: {error}", err=True)
            status = 1
    if not followers:
        raise CaffeSplitError(f"nothing to draw: no log that can be read in {', '.join(logs)}")
    if all(follower.log.training is None for follower in followers):
        names = ", ".join(follower.path for follower in followers)
        raise CaffeSplitError(f"nothing to draw: no line of a training in {names}")
    return followers, status


def main(arguments: Sequence[str] | None = None) -> int:
    """The command `plot_loss.py`; returns the exit status."""
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        return int(command(words, standalone_mode=False) or 0)
    except CaffeSplitError as error:
        click.echo(f"plot_loss.py: {error}", err=True)
        return 1
    except click.UsageError as error:
        error.show()
        return 2
    except (click.Abort, KeyboardInterrupt):
        return 130
