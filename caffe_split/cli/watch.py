"""The command `watch`."""

from __future__ import annotations

import time
from pathlib import Path

import click

from caffe_split.backends.reporter import make_reporter
from caffe_split.cli.log_options import THE_FIRST, net_option, rank_option
from caffe_split.cli.log_path import LogPath
from caffe_split.cli.ranges import FiniteRange, IntRange
from caffe_split.errors import CaffeSplitError
from caffe_split.files import stream_kind
from caffe_split.trainlog import progress, query
from caffe_split.trainlog.follow import Follower


@click.command()
@click.argument("log", type=LogPath())
@click.option(
    "--max-iter", type=IntRange(1), help="Last iteration of the training.  [default: what the log's solver says]"
)
@click.option(
    "--every", type=FiniteRange(min=0, min_open=True), default=1.0, show_default=True, help="Seconds between two looks."
)
@click.option("--once", is_flag=True, help="Show the progress once and end.")
@net_option(THE_FIRST)
@rank_option
def watch(log: str, max_iter: int | None, every: float, once: bool, net: int | None, rank: int | None) -> int:
    """Follow a running training: progress to max_iter, time left, loss, accuracy, the best so far.

    A folder stands for its train.log.

    Each look reads only what was appended. The command ends when the training does, or with Ctrl-C, which
    leaves the training running.

    \b
    Example:
      caffe-split watch derived1/train.log
    """
    if Path(log, "train.log").is_file():
        log = str(Path(log, "train.log"))
    if stream_kind(log) and not once:
        raise CaffeSplitError(f"{log}: this is {stream_kind(log)}, which does not grow; give the file, or add --once")
    follower = Follower(log, rank)
    follower.poll()
    for note in follower.log.notes:
        click.echo(f"note: {log}: {note}", err=True)
    nets = follower.log.test_nets
    if net is not None and nets and net not in nets:
        follower.log.values(net=net)  # raises, and says which there are
    elif net is None and len(nets) > 1:
        shown = (follower.log.main_output() or nets)[0]
        click.echo(f"note: {log}: {len(nets)} test nets; shown is #{shown}, --net N shows another", err=True)
    goal = max_iter or progress.max_iter_in(log, rank) or 0
    if not follower.log.runs and once:
        raise CaffeSplitError(f"{log} holds no line of a training yet")
    if follower.log.runs and follower.log.training is None:
        follower.log.values()  # raises, and says what it is instead
    if once:
        click.echo(progress.one_line(progress.progress_of(follower.log, goal, net)))
    else:
        _follow(follower, (goal, net), max_iter is None, every, rank)
    state, why = query.state_of(follower.log)
    if state != "running":
        click.echo(f"{state}{': ' if why else ''}{why}", err=True)
    return 1 if state == "crashed" else 0


def _follow(
    follower: Follower, shown: tuple[int, int | None], look_for_goal: bool, every: float, rank: int | None
) -> None:
    goal, net = shown
    with make_reporter(goal, net) as reporter:
        reporter.update(follower.log)
        while query.state_of(follower.log)[0] in ("running", "empty"):
            time.sleep(every)
            if follower.poll():
                if look_for_goal and not goal:
                    goal = progress.max_iter_in(follower.path, rank) or 0
                    reporter.aim(goal)
                reporter.update(follower.log)
