"""The progress of a study on stderr: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn
from rich.progress import Progress as Bar

from caffe_split.study.run import Progress
from caffe_split.trainlog.show import duration


@contextlib.contextmanager
def view(name: str) -> Iterator[Callable[[Progress], None]]:
    """A function that shows a `Progress` on stderr."""
    console = Console(stderr=True)
    if not console.is_terminal:
        yield _Lines(console)
        return
    columns = (MofNCompleteColumn(), BarColumn(bar_width=30), TextColumn("{task.fields[state]}", markup=False))
    with Bar(*columns, console=console) as bar:
        task = bar.add_task(name, total=None, state="starting")
        yield lambda now: bar.update(task, completed=now.done, total=now.total, state=_words(now))


class _Lines:
    """Prints a line each time another step is done."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._done = -1

    def __call__(self, now: Progress) -> None:
        if now.done != self._done:
            self._done = now.done
            line = f"{now.done}/{now.total} steps  {_words(now)}"
            self._console.print(line, markup=False, highlight=False, soft_wrap=True)


def _words(now: Progress) -> str:
    words = [f"{now.failed} failed"] if now.failed else []
    if now.left is not None:
        words.append(f"about {duration(now.left)} left")
    words.append(", ".join(now.running) or "between steps")
    return "  ".join(words)
