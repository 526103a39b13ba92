"""Laws of all help texts: each can be understood alone, and what it shows can be typed."""

from __future__ import annotations

import inspect
import re
from collections.abc import Iterator

import click
import pytest

from caffe_split.cli import cli
from caffe_split.cli.options import ShapeType
from caffe_split.cli.plot_loss import command as plot_loss

OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# Words that refer to the text of another option or of another command, or leave out what the value is.
REFERS = re.compile(
    r"\b([Aa]s there|[Aa]s for|[Ww]ith them|several times for several)\b|^((Of|In|From|At)\b|The same,)"
)


def commands(command: click.Command, name: str) -> Iterator[tuple[str, click.Command]]:
    yield name, command
    if isinstance(command, click.Group):
        ctx = click.Context(command)
        for each in command.list_commands(ctx):
            found = command.get_command(ctx, each)
            assert found is not None
            yield from commands(found, f"{name} {each}")


ALL = dict([*commands(cli, "caffe-split"), ("plot_loss.py", plot_loss)])


def faults(command: click.Command, option: click.Option) -> list[str]:
    """What keeps the help of an option from being understood, or its value from being typed as shown."""
    text, found = option.help or "", []
    if len(text) < 10 or not text.endswith((".", "]")):
        found.append("no sentence")
    if REFERS.search(text):
        found.append("refers to another text")
    if "default:" in re.sub(r"\[default: [^]]*\]$", "", text):
        found.append("a default that is not in brackets at the end")
    own = {word for param in command.params for word in (*param.opts, *param.secondary_opts)}
    if strange := set(OPTION.findall(text)) - own:
        found.append(f"{strange} of another command")
    shown = option.make_metavar(click.Context(command))
    # Click shows the name of a type in capitals; those of its own types, such as "float range", are no values to type.
    of_click = (click.types.IntParamType, click.types.FloatParamType)
    ours = not type(option.type).__module__.startswith("click") and not isinstance(option.type, of_click)
    if option.metavar is None and ours and shown != option.type.name:
        found.append(f"{shown} shown for {option.type.name}")
    return found


@pytest.mark.parametrize("name", ALL)
def test_options_are_understood_by_themselves(name: str) -> None:
    options = [each for each in ALL[name].params if isinstance(each, click.Option)]
    found = {each.opts[0]: (each.help, faults(ALL[name], each)) for each in options}
    assert not {option: pair for option, pair in found.items() if pair[1]}


@pytest.mark.parametrize("name", ALL)
def test_examples_have_their_number_in_their_heading(name: str) -> None:
    text = inspect.cleandoc(ALL[name].help or "")
    heading, _, shown = text.partition("\nExample")
    assert heading
    lines = re.findall(r"^ +(?:caffe-split|plot_loss\.py) .+", shown, re.MULTILINE)
    if shown.startswith(": "):
        assert not lines
    elif shown:
        assert shown.startswith("s:\n" if len(lines) > 1 else ":\n") and lines, text


def test_the_first_page_names_commands_that_exist_and_the_main_one_first() -> None:
    shown = re.findall(r"^ +caffe-split (\S+)", cli.help or "", re.MULTILINE)
    assert shown[0] == "multisplit"
    assert set(shown) <= set(cli.list_commands(click.Context(cli)))


@pytest.mark.parametrize(
    ("typed", "shape"),
    [
        (ShapeType.name, (64, 3, 32, 32)),
        ("BLOB=64X3X32X32", (64, 3, 32, 32)),
        ("BLOB=64,3,32,32", (64, 3, 32, 32)),
        ("BLOB=5", (5,)),
    ],
)
def test_a_shape_is_typed_as_it_is_shown(typed: str, shape: tuple[int, ...]) -> None:
    assert ShapeType().convert(typed, None, None) == ("BLOB", shape)


@pytest.mark.parametrize("typed", ["BLOB", "=1", "BLOB=", "BLOB=1x", "BLOB=0x1", "BLOB=-1", "BLOB=1\u00b2", "BLOB=1.5"])
def test_other_shapes_are_refused(typed: str) -> None:
    with pytest.raises(click.BadParameter, match="is not BLOB=SHAPE, for example data=64x3x32x32"):
        ShapeType().convert(typed, None, None)


class Small(click.ParamType):
    name = "1x2"


@pytest.mark.parametrize(
    ("option", "fault"),
    [
        (click.Option(["--a"], help="As there."), "no sentence"),
        (click.Option(["--a"], help="As for make-derived."), "refers to another text"),
        (click.Option(["--a"], help="Of each training."), "refers to another text"),
        (click.Option(["--a"], help="The program; default: in PATH."), "a default that"),
        (click.Option(["--a"], help="Shown beside those of --other."), "{'--other'} of another command"),
        (click.Option(["--a"], type=Small(), help="The shape of an input."), "1X2 shown for 1x2"),
    ],
)
def test_the_law_sees_a_fault(option: click.Option, fault: str) -> None:
    assert any(each.startswith(fault) for each in faults(click.Command("c", params=[option]), option))
