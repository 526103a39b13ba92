"""Options that do not go together, which a command would not look at. It loads nothing, for the commands on logs."""

from __future__ import annotations

import click
from click.core import ParameterSource


def leave_out(why: str, *parameters: str) -> None:
    """Raises click's `UsageError` where the running command was given one of these, which it would not look at."""
    context = click.get_current_context()
    given = [
        param.opts[0]
        for param in context.command.params
        if param.name in parameters and context.get_parameter_source(param.name) is not ParameterSource.DEFAULT
    ]
    if given:
        raise click.UsageError(f"{why}: leave out {', '.join(given)}.")
