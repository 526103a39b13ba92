"""A loop on the terminal: its words on standard error, and one bar over all of it; plain lines elsewhere."""

from __future__ import annotations

import math
import time

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from caffe_split.rounds.progress import EVERY


class PlainScreen:
    """Plain lines, the line of progress at most every `EVERY` seconds."""

    def __init__(self, console: Console) -> None:
        self._console, self._when = console, -math.inf

    def say(self, text: str) -> None:
        """Print text that stays."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def line(self, text: str, done: int, total: int) -> None:
        """Show the line of progress."""
        if time.monotonic() - self._when >= EVERY:
            self._when = time.monotonic()
            self.say(f"{text}  ({done}/{total})")

    def __enter__(self) -> PlainScreen:
        return self

    def __exit__(self, *_: object) -> None:
        return


class BarScreen:
    """A bar over the iterations of the whole loop, below the words."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._bar = Progress(
            BarColumn(bar_width=20),
            TextColumn("{task.percentage:>3.0f}%"),
            TextColumn("{task.fields[state]}", markup=False),
            console=console,
            expand=True,
        )
        self._task = self._bar.add_task("", total=None, state="")

    def say(self, text: str) -> None:
        """Print text that stays, above the bar."""
        self._console.print(text, highlight=False, markup=False, soft_wrap=True)

    def line(self, text: str, done: int, total: int) -> None:
        """Show the line of progress."""
        self._bar.update(self._task, completed=done, total=total, state=text)

    def __enter__(self) -> BarScreen:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()


def make_screen() -> PlainScreen | BarScreen:
    """The bar on a terminal, lines elsewhere; both on standard error."""
    console = Console(stderr=True)
    return BarScreen(console) if console.is_terminal else PlainScreen(console)
