"""The command line: it parses, calls the library, prints, translates errors. One module per family of commands."""

from __future__ import annotations

import ast
import copy
import difflib
import functools
import importlib
import os
import sys
from collections.abc import Iterator, Sequence
from importlib import resources
from typing import Any

import click
from click.shell_completion import CompletionItem

from caffe_split import __version__
from caffe_split.errors import CaffeSplitError

# A command's module is imported only when the command is used, so that `best` on a log does not wait for
# the weights' libraries.
COMMANDS = {
    "instrument": "instrument",
    "tpm": "tpm",
    "make-derived": "derive",
    "multisplit": "multisplit",
    "verify": "verify",
    "fold": "fold",
    "export": "export",
    "summary": "summary",
    "draw": "draw",
    "kernels": "draw",
    "train": "train",
    "test": "test",
    "time": "time",
    "extract": "extract",
    "best": "logs",
    "final": "logs",
    "table": "table",
    "watch": "watch",
    "report": "report",
    "data": "data",
    "study": "study",
    "doctor": "doctor",
    "completion": "completion",
}


class _LazyGroup(click.Group):
    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if ctx.resilient_parsing:  # a completion, of a line that may not be whole
            return super().resolve_command(ctx, args)
        if args and args[0] not in COMMANDS and not args[0].startswith("-"):
            near = difflib.get_close_matches(args[0], COMMANDS, 1, 0.65)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(COMMANDS)}"
            raise click.UsageError(f"no command '{args[0]}'; {hint}", ctx)
        _refuse_empty(args, ctx)
        return super().resolve_command(ctx, args)

    def get_command(self, ctx: click.Context, name: str) -> click.Command | None:
        if name not in COMMANDS:
            return None
        module = importlib.import_module(f"caffe_split.cli.{COMMANDS[name]}")
        command: click.Command = getattr(module, name.replace("-", "_"))
        return _with_files_checked(name, command)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        """The list of commands; click's own would import every command for it."""
        limit = formatter.width - 6 - max(map(len, COMMANDS))
        with formatter.section("Commands"):
            formatter.write_dl([(name, command.get_short_help_str(limit)) for name, command in _listed()])

    def shell_complete(self, ctx: click.Context, incomplete: str) -> list[CompletionItem]:
        """The commands that begin so; click's own would import each of them."""
        found = [
            CompletionItem(name, help=command.get_short_help_str())
            for name, command in _listed()
            if name.startswith(incomplete)
        ]
        return found + click.Command.shell_complete(self, ctx, incomplete)


def _refuse_empty(words: Sequence[str], ctx: click.Context) -> None:
    """Raises `click.UsageError` for an empty value, which pathlib takes for the current folder and others for none."""
    # What follows -- goes from a study to another program.
    ours = words[: words.index("--")] if words[0] == "study" and "--" in words else words
    for before, word in zip(["", *ours], ours):
        option, equals, value = word.partition("=")
        if not word:
            where = f"behind {before}" if before.startswith("-") and before != "--" else "as an argument"
        elif option.startswith("--") and equals and not value:
            where = f"behind {option}"
        else:
            continue
        raise click.UsageError(
            f"an empty value {where}; give a value, or leave it out. Is a variable of the shell not set?", ctx
        )


def _listed() -> Iterator[tuple[str, click.Command]]:
    """Each command with its help alone, the docstring of its function, which is read from the source unimported."""
    for name, module in COMMANDS.items():
        parsed = _source_of(module).body
        written = (each for each in parsed if isinstance(each, ast.FunctionDef) and each.name == name.replace("-", "_"))
        yield name, click.Command(name, help=ast.get_docstring(next(written)))


@functools.cache
def _source_of(module: str) -> ast.Module:
    return ast.parse(resources.files("caffe_split.cli").joinpath(f"{module}.py").read_text(encoding="utf-8"))


def _with_files_checked(name: str, command: click.Command) -> click.Command:
    """The command, which first refuses files that stand where another kind of file belongs."""
    callback = command.callback
    assert callback is not None

    def run(**values: Any) -> Any:
        from caffe_split.cli.given import check_given

        check_given(name, command.params, values)
        return callback(**values)

    checked = copy.copy(command)
    checked.callback = functools.wraps(callback)(run)
    return checked


@click.group(cls=_LazyGroup, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(__version__, prog_name="caffe-split")
def cli() -> None:
    """Measure how the kernels of a Caffe net move in training, split convolutions by it, train, and fold them back.

    \b
    The main job by one command, from a solver to a trained net of the old cost, beside controls:
      caffe-split multisplit solver.prototxt

    \b
    Its steps, from a trained baseline to a derived net:
      caffe-split tpm solver.prototxt --iter 50000
      caffe-split make-derived baseline.prototxt --iter 50000 --num-splits 9
      caffe-split train derived1/solver.prototxt
      caffe-split best baseline/train.log derived1/train.log
    """


def main() -> None:
    """Run the command line: status 0 done, 1 refused or failed (one line on stderr), 2 wrong use."""
    try:
        status = cli(standalone_mode=False)
        sys.exit(status if isinstance(status, int) else 0)
    except CaffeSplitError as error:
        click.echo(f"caffe-split: {error}", err=True)
        sys.exit(1)
    except click.UsageError as error:
        error.show()
        sys.exit(2)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("caffe-split: interrupted", err=True)
        sys.exit(130)
    except BrokenPipeError:
        # The reader of our output (`| head`) has gone: this is no error, and there is no place for a message.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
