"""Options that several commands share, and the forms of their values."""

from __future__ import annotations

import contextlib
import functools
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from caffe_split import jsontext
from caffe_split.backends.choose import names as backend_names
from caffe_split.cli.ranges import LEVEL, IntRange
from caffe_split.errors import CaffeSplitError, WrongUseError
from caffe_split.net.names import split_names

if TYPE_CHECKING:
    from caffe_split.net.state import AskedState
    from caffe_split.net.training import Training


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


class ShapeType(click.ParamType):
    """BLOB=LENGTHxLENGTH..., the shape of an input; commas may stand in place of the x."""

    name = "BLOB=64x3x32x32"

    def convert(
        self, value: Any, param: click.Parameter | None, ctx: click.Context | None
    ) -> tuple[str, tuple[int, ...]]:
        """`data=1x3x224x224` or `data=1,3,224,224` as ("data", (1, 3, 224, 224))."""
        if isinstance(value, tuple):
            return value
        blob, equals, lengths = str(value).rpartition("=")
        parts = re.split("[xX,]", lengths)
        if not (equals and blob and all(re.fullmatch(r"0*[1-9][0-9]{0,14}", part) for part in parts)):
            self.fail(f"{value!r} is not BLOB=SHAPE, for example data=64x3x32x32 or data=64,3,32,32", param, ctx)
        return blob, tuple(int(part) for part in parts)


def shape_option(which: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --input, as the parameter `inputs`; `which`: the inputs whose shapes it gives."""
    # Without a metavar click would show the type's name in capitals, as nobody may type it.
    return click.option(
        "--input",
        "inputs",
        type=ShapeType(),
        multiple=True,
        metavar=ShapeType.name,
        help=f"The shape of {which}; can be repeated.",
    )


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

device_option = click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    default="cpu",
    show_default=True,
    help="Where the nets run; a Caffe that is built for CPUs alone refuses cuda.",
)
threads_option = click.option(
    "--threads",
    type=IntRange(1),
    metavar="N",
    help="Threads of the engine.  [default: of caffe OPENBLAS_NUM_THREADS if set, else 1; of torch its own]",
)

# For commands that read nets: the fields of a fork's schema are then checked and typed, too.
caffe_proto_option = click.option(
    "--caffe-proto",
    type=click.Path(path_type=Path),
    help="The caffe.proto of the fork that the net is for.",
)


class Shown(NamedTuple):
    """The state that was asked for: it decides which layers of a net are shown, see `caffe_split.net.state`."""

    phase: str
    stages: tuple[str, ...]
    level: int | None

    def open(self, path: Path, caffe_proto: Path | None, upgrade: bool = True) -> Training:
        """A net or solver as `open_training` has it, in this state; what is kept of a fork's is noted on stderr."""
        from caffe_split.net.training import open_training

        return self._of(open_training(path, upgrade, caffe_proto))

    def open_in_phase(self, path: Path, caffe_proto: Path | None) -> Training:
        """The same with the net that a solver builds in this phase: in TEST the first that it tests."""
        from caffe_split.net.training import open_training

        return self._of(open_training(path, caffe_proto=caffe_proto, phase=self.phase))

    def _of(self, training: Training) -> Training:
        say_kept(training.notes)
        return training.asked_for(*self)

    def asked(self) -> AskedState:
        """The same for commands that open the net themselves."""
        from caffe_split.net.state import AskedState

        return AskedState(*self)


def say_kept(notes: Iterable[str], most: int = 20) -> None:
    """Print what documents keep of a fork's fields, or of slips, on stderr."""
    lines = list(dict.fromkeys(notes))
    for line in lines[:most]:
        click.echo(f"note: {line}", err=True)
    if len(lines) > most:
        click.echo(f"note: and {len(lines) - most} more fields or values that BVLC's Caffe does not have", err=True)


def state_options(phase: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The options --phase, --stage and --level as one parameter `shown`; `phase` is the default."""

    def decorate(command: Callable[..., Any]) -> Callable[..., Any]:
        @click.option(
            "--phase",
            type=click.Choice(["TRAIN", "TEST"]),
            default=phase,
            show_default=True,
            help="Phase in which a net is built: it decides which layers are in it.",
        )
        @click.option(
            "--stage",
            "stages",
            multiple=True,
            help="A stage in which the net is built; can be repeated.  [default: those of the solver]",
        )
        @click.option("--level", type=LEVEL, help="Level in which the net is built.  [default: the solver's, else 0]")
        @functools.wraps(command)
        def with_state(*args: Any, phase: str, stages: tuple[str, ...], level: int | None, **options: Any) -> Any:
            return command(*args, shown=Shown(phase, stages, level), **options)

        return with_state

    return decorate


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
    """`a,b` as ['a', 'b'], see `split_names`; None stays None."""
    return None if text is None else split_names(text)


def end_dry_run(check: Callable[[Path, bool], object], out: Path, force: bool) -> None:
    """Say that nothing was written, and what `check` says against writing `out`."""
    click.echo("nothing written (--dry-run)")
    try:
        check(out, force)
    except CaffeSplitError as error:
        click.echo(f"note: {error}", err=True)


def print_json(value: Any) -> None:
    """Print a value as JSON, NaN as null."""
    click.echo(jsontext.dumps(value))
