"""What is shown of a running training: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

import math
import time

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.progress import one_line, progress_of
from caffe_split.trainlog.show import duration, number

# Plain lines come with every test phase, and otherwise at most this often, in seconds.
PLAIN_EVERY = 10.0
_STOPPING = (
    "stopping: the training has the interrupt and finishes its iteration and a snapshot "
    "(interrupt again to end it without one)"
)


class PlainReporter:
    """Plain lines: after each test phase, else at most one every `PLAIN_EVERY` seconds."""

    def __init__(self, console: Console, max_iter: int, net: int | None = None) -> None:
        self._console = console
        self._max_iter = max_iter
        self._net = net
        self._shown = (-1, -1)
        self._when = -math.inf

    def update(self, log: TrainingLog) -> None:
        """Print a line where there is news."""
        now = progress_of(log, self._max_iter, self._net)
        seen = (now.iteration, now.tested)
        due = time.monotonic() - self._when >= PLAIN_EVERY or now.tested != self._shown[1]
        if seen != self._shown and now.iteration >= 0 and due:
            self._shown, self._when = seen, time.monotonic()
            self._console.print(one_line(now), highlight=False, markup=False, soft_wrap=True)

    def aim(self, max_iter: int) -> None:
        """Take `max_iter` as the end."""
        self._max_iter = max_iter

    def stopping(self) -> None:
        """Say that stopping takes a while."""
        self._console.print(_STOPPING, highlight=False, soft_wrap=True)

    def __enter__(self) -> PlainReporter:
        return self

    def __exit__(self, *_: object) -> None:
        return


class BarReporter:
    """A progress bar to max_iter with loss, accuracy and the time left."""

    def __init__(self, console: Console, max_iter: int, net: int | None = None) -> None:
        self._console = console
        self._max_iter = max_iter
        self._net = net
        self._bar = Progress(
            MofNCompleteColumn(),
            BarColumn(bar_width=None),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=max_iter or None, state="starting")

    def update(self, log: TrainingLog) -> None:
        """Move the bar."""
        now = progress_of(log, self._max_iter, self._net)
        words = [f"loss {number(now.loss, 4)}"]
        if now.output:
            words.append(f"{now.output} {number(now.accuracy, 4)}, best {number(now.best, 4)}")
        if now.trouble:
            words.append(now.trouble)
        if not math.isnan(now.left):
            words.append(f"{duration(now.left)} left")
        if now.iteration >= 0:
            self._bar.update(self._task, completed=now.iteration, state="  ".join(words))

    def aim(self, max_iter: int) -> None:
        """Take `max_iter` as the end."""
        self._max_iter = max_iter
        self._bar.update(self._task, total=max_iter or None)

    def stopping(self) -> None:
        """Say that stopping takes a while."""
        self._bar.console.print(_STOPPING, highlight=False)

    def __enter__(self) -> BarReporter:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def make_reporter(max_iter: int, net: int | None = None) -> PlainReporter | BarReporter:
    """The bar on a terminal, lines elsewhere; both on stderr. net: the test net; None: the first."""
    console = Console(stderr=True)
    return BarReporter(console, max_iter, net) if console.is_terminal else PlainReporter(console, max_iter, net)
