"""`plot_loss.py`: draw training logs, live in a window, in a notebook, or into a file."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import click

from caffe_split.errors import CaffeSplitError
from caffe_split.plot import figure as picture
from caffe_split.plot.series import collect
from caffe_split.trainlog.follow import Follower

SIZE = (9.0, 7.5)
DEFAULT_FILE = "loss.png"
_FORMATS = (".png", ".svg", ".pdf")


@click.command(context_settings={"help_option_names": ["-h", "--help"]})
@click.argument("logs", nargs=-1, required=True, type=click.Path())
@click.option(
    "--avg",
    "average",
    default=1,
    show_default=True,
    type=click.IntRange(1),
    metavar="N",
    help="Mean of the train loss over N displays, the raw curve faint behind it.",
)
@click.option("--no_refresh", "--no-refresh", is_flag=True, help="Draw once; otherwise follow the growing logs.")
@click.option("--out", type=click.Path(dir_okay=False), help="Write this PNG, SVG or PDF; open no window.")
@click.option("--x", "x_axis", type=click.Choice(["iteration", "time"]), default="iteration", show_default=True)
@click.option("--outputs", default="", metavar="NAME,NAME", help="Draw these train and test outputs only.")
@click.option("--log", "log_scale", is_flag=True, help="Logarithmic loss axes.")
@click.option("--every", default=2.0, show_default=True, help="Seconds between two looks at growing logs.")
def command(
    logs: tuple[str, ...],
    average: int,
    no_refresh: bool,
    out: str | None,
    x_axis: str,
    outputs: str,
    log_scale: bool,
    every: float,
) -> int:
    """Draw the train loss, test accuracy and test loss of training LOGs, best points marked.

    \b
    Example:
      plot_loss.py baseline/train.log derived1/train.log --avg 3 --no_refresh
    """
    if out is not None and Path(out).suffix.lower() not in _FORMATS:
        raise CaffeSplitError(f"cannot write {out}: the name must end in {', '.join(_FORMATS)}")
    followers, status = _open(logs)
    chosen = [name for name in outputs.split(",") if name]

    def draw(target: Any) -> None:
        curves = collect([follower.log for follower in followers], x_axis, chosen)
        picture.draw(target, curves, average, log_scale)

    kind, why = ("file", "") if out is not None else _screen()
    if kind == "file":
        path = out or DEFAULT_FILE
        _write(path, draw)
        click.echo(f"{why}wrote {path}")
        return status
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=SIZE, layout="constrained")
    draw(figure)
    if kind == "window" and not no_refresh:
        _follow(figure, followers, draw, every)
    pyplot.show()
    return status


def _open(logs: Sequence[str]) -> tuple[list[Follower], int]:
    """A follower for each readable log; status 1 where some are not, an error where none is."""
    followers, status = [], 0
    for path in logs:
        try:
            follower = Follower(path)
            follower.poll()
            followers.append(follower)
        except CaffeSplitError as error:
            click.echo(f"plot_loss.py: {error}", err=True)
            status = 1
    if not followers:
        raise CaffeSplitError("nothing to draw: none of the logs can be read")
    if not any(follower.log.runs for follower in followers):
        names = ", ".join(follower.path for follower in followers)
        raise CaffeSplitError(f"nothing to draw: no line of a training in {names}")
    return followers, status


def _screen() -> tuple[str, str]:
    """Where a figure can be seen: notebook, window, or file, with the reason, when no window can be opened."""
    if "IPython" in sys.modules:
        from IPython import get_ipython  # type: ignore[import-not-found, unused-ignore]

        shell = get_ipython()
        if shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell":
            return "notebook", ""
    shown = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not shown:
        return "file", "no display: "
    import matplotlib
    from matplotlib import pyplot

    with contextlib.suppress(ImportError):
        pyplot.switch_backend(matplotlib.rcParams["backend"])
        if matplotlib.get_backend().lower() not in ("agg", "svg", "pdf", "ps", "cairo"):
            return "window", ""
    place = shown or "this machine"
    return "file", f"no window on {place} (not a display, or no toolkit such as Debian's python3-tk): "


def _write(path: str, draw: Any) -> None:
    from matplotlib.figure import Figure

    from caffe_split.files import atomic_open

    figure = Figure(figsize=SIZE, layout="constrained")
    draw(figure)
    try:
        with atomic_open(path) as stream:
            figure.savefig(stream, format=Path(path).suffix[1:].lower(), dpi=150)
    except OSError as error:
        reason = f"cannot write {path}: {error.strerror}; choose another place with --out"
        raise CaffeSplitError(reason) from error


def _follow(figure: Any, followers: list[Follower], draw: Any, every: float) -> None:
    """Let the window's own timer look at the logs; only what was appended is read."""
    timer = figure.canvas.new_timer(interval=round(1000 * every))

    def look() -> None:
        if any([_poll(follower) for follower in followers]):
            draw(figure)
            figure.canvas.draw_idle()

    timer.add_callback(look)
    timer.start()
    figure._caffe_split_timer = timer  # the timer stops when nothing refers to it any more


def _poll(follower: Follower) -> bool:
    try:
        return follower.poll()
    except CaffeSplitError:  # moved away, or not there for a moment: what was read stays in the window
        return False


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
