"""Options that several commands share, and the forms of their values."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import click

from caffe_split import jsontext
from caffe_split.backends.choose import names as backend_names


class WindowType(click.ParamType):
    """START:STOP, two iterations."""

    name = "START:STOP"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> tuple[int, int]:
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
    help="Leave weights of layers out that the net does not have, as of a head that only training needs.",
)

engine_option = click.option(
    "--engine",
    type=click.Choice(backend_names()),
    help="What runs the nets.  [default: the built Caffe where there is one, else torch]",
)

# For commands that read nets: what a fork's schema knows is then checked and typed, too.
caffe_proto_option = click.option(
    "--caffe-proto",
    type=click.Path(path_type=Path),
    help="The caffe.proto of the fork that the net is for.",
)


def names(text: str | None) -> list[str] | None:
    """`a,b` as ['a', 'b']; None stays None."""
    return None if text is None else [name.strip() for name in text.split(",") if name.strip()]


def print_json(value: Any) -> None:
    """Print a value as JSON, NaN as null."""
    click.echo(jsontext.dumps(value))
