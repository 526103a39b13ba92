"""The command `completion`: scripts by which a shell completes commands, options and files."""

from __future__ import annotations

import click
from click.shell_completion import get_completion_class


@click.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the script that makes SHELL complete caffe-split and plot_loss.py at the Tab key.

    \b
    Examples:
      caffe-split completion bash >> ~/.bashrc
      caffe-split completion zsh >> ~/.zshrc      (below compinit)
      caffe-split completion fish > ~/.config/fish/completions/caffe-split.fish
    """
    from caffe_split.cli import cli
    from caffe_split.cli.plot_loss import command

    made = get_completion_class(shell)
    assert made is not None  # click has all three
    for program, asked in (("caffe-split", cli), ("plot_loss.py", command)):
        # Click looks for this variable when the program starts, and answers in place of running a command.
        variable = f"_{program}_COMPLETE".replace("-", "_").replace(".", "_").upper()
        click.echo(made(asked, {}, program, variable).source())
