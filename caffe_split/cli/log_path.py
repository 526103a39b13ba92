"""The form of a log's path; a module of its own, since commands that read logs import little else."""

from __future__ import annotations

from typing import Any

import click


class LogPath(click.Path):
    """The path of a log, where - is standard input."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as it is, or that of standard input."""
        if value == "":  # which pathlib takes for the current folder
            self.fail("an empty path; expected a log or a folder. Is a variable of the shell not set?", param, ctx)
        return super().convert("/dev/stdin" if value == "-" else value, param, ctx)
