"""Where a figure can be seen, and a figure that follows growing logs."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog.follow import Follower


def screen() -> tuple[str, str]:
    """("notebook" or "window", "") if a figure can be shown; else ("file", why no window can be opened)."""
    if "IPython" in sys.modules:
        from IPython import get_ipython  # type: ignore[import-not-found, unused-ignore]

        shell = get_ipython()
        if shell is not None and shell.__class__.__name__ == "ZMQInteractiveShell":
            return "notebook", ""
    display = os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY")
    if sys.platform.startswith("linux") and not display:
        return "file", "no display: "
    import matplotlib
    from matplotlib import pyplot

    with contextlib.suppress(ImportError):
        pyplot.switch_backend(matplotlib.rcParams["backend"])
        if matplotlib.get_backend().lower() not in ("agg", "svg", "pdf", "ps", "cairo"):
            return "window", ""
    place = display or "this machine"
    return "file", f"no window on {place} (not a display, or no toolkit such as Debian's python3-tk): "


def show(draw: Callable[[Any], None], size: tuple[float, float], followers: Sequence[Follower], every: float) -> None:
    """Show what `draw(figure)` draws until its window is closed, or in the notebook.

    size: width and height in inches. followers: logs to look at every `every` seconds; if one of them has grown, the
    figure is drawn again.
    """
    from matplotlib import pyplot

    figure = pyplot.figure(figsize=size, layout="constrained")
    draw(figure)
    if followers:
        follow(figure, followers, draw, every)
    pyplot.show()


def follow(figure: Any, followers: Sequence[Follower], draw: Callable[[Any], None], every: float) -> None:
    """Let the window's own timer look at the logs, each time reading only what was appended."""
    timer = figure.canvas.new_timer(interval=round(1000 * every))

    def look() -> None:
        if any([_poll(follower) for follower in followers]):
            draw(figure)
            figure.canvas.draw_idle()

    timer.add_callback(look)
    timer.start()
    # A timer stops when nothing refers to it any more: this connection does, as long as there is the figure.
    figure.canvas.mpl_connect("close_event", lambda _: timer.stop())


def _poll(follower: Follower) -> bool:
    try:
        return follower.poll()
    except CaffeSplitError:  # moved away, or missing for a moment: what was read stays in the window
        return False
