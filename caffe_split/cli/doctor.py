"""The command `doctor`."""

from __future__ import annotations

import click


@click.command()
def doctor() -> None:
    """Say what is installed here, which engines work, and what each missing thing would bring.

    Each engine that is installed runs a net of one layer. The lines are there to be pasted into a report of a problem.

    \b
    Example:
      caffe-split doctor > doctor.txt
    """
    from caffe_split.backends.installed import installed

    for line in installed():
        click.echo(line)
