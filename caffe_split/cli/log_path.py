"""The form of a log's path; a module of its own, since commands that read logs import little else."""

from __future__ import annotations

from typing import Any

import click


class LogPath(click.Path):
    """The path of a log, where - is standard input."""

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """The path as it is, or that of standard input."""
        return super().convert("/dev/stdin" if value == "-" else value, param, ctx)
