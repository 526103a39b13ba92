"""Options that several commands share, and the forms of their values."""

from __future__ import annotations

import contextlib
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click

from caffe_split import jsontext
from caffe_split.backends.choose import names as backend_names
from caffe_split.errors import WrongUseError


class WindowType(click.ParamType):
    """START:STOP, two iterations."""

    name = "START:STOP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
        """`40000:50000` as (40000, 50000)."""
        if isinstance(value, tuple):
            return value
        start, colon, stop = str(value).partition(":")
        # Not isdigit, which takes digits of other scripts, and superscripts, too.
        numbers = all(re.fullmatch(r"[0-9]{1,15}", number) for number in (start, stop))
        if not (colon and numbers and int(start) < int(stop)):
            self.fail(
                f"{value!r} is not START:STOP with START < STOP, two iterations, for example 40000:50000",
                param,
                ctx,
            )
        return int(start), int(stop)


WINDOW = WindowType()

ignore_extra_option = click.option(
    "--ignore-extra-weights",
    "ignore_extra",
    is_flag=True,
    help="Leave out weights of layers that the net does not have, such as those of a head for training only.",
)

engine_option = click.option(
    "--engine",
    type=click.Choice(backend_names()),
    help="What runs the nets.  [default: the built Caffe where there is one, else torch]",
)

# For commands that read nets: the fields of a fork's schema are then checked and typed, too.
caffe_proto_option = click.option(
    "--caffe-proto",
    type=click.Path(path_type=Path),
    help="The caffe.proto of the fork that the net is for.",
)


@contextlib.contextmanager
def wrong_use() -> Iterator[None]:
    """Turn the library's `WrongUseError` into click's, which shows how the command is used and ends with status 2."""
    try:
        yield
    except WrongUseError as error:
        raise click.UsageError(str(error)) from None


def this_command() -> list[str]:
    """The command that is running, as a manifest names it."""
    return [Path(sys.argv[0]).name, *sys.argv[1:]]


def names(text: str | None) -> list[str] | None:
    """`a,b` as ['a', 'b']; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def print_json(value: Any) -> None:
    """Print a value as JSON, NaN as null."""
    click.echo(jsontext.dumps(value))
