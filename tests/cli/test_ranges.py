"""Numbers of options: each is bounded, and neither nan nor infinity gets through."""

from __future__ import annotations

from collections.abc import Iterator

import click
import pytest

from caffe_split.cli import cli
from caffe_split.cli.ranges import FiniteRange


def options(group: click.Command = cli, name: str = "") -> Iterator[tuple[str, click.Parameter]]:
    """The options of all commands, each with `command --option`."""
    if isinstance(group, click.Group):
        context = click.Context(group)
        for child in group.list_commands(context):
            command = group.get_command(context, child)
            assert command is not None
            yield from options(command, f"{name} {child}".strip())
        return
    for param in group.params:
        yield f"{name} {param.opts[0]}", param


NUMBERS = {name: param.type for name, param in options() if hasattr(param.type, "name")}


def test_no_option_takes_any_number() -> None:
    plain = {"integer", "float", "float range"}
    loose = [
        name
        for name, kind in NUMBERS.items()
        if kind.name in plain and not isinstance(kind, (FiniteRange, click.IntRange))
    ]
    assert not loose
    assert sum(isinstance(kind, FiniteRange) for kind in NUMBERS.values()) > 9


@pytest.mark.parametrize("name", [name for name, kind in NUMBERS.items() if isinstance(kind, FiniteRange)])
@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_what_is_not_finite_is_refused(name: str, value: str) -> None:
    with pytest.raises(click.BadParameter):
        NUMBERS[name].convert(value, None, None)


def test_seeds_are_not_below_0() -> None:
    seeds = {name: kind for name, kind in NUMBERS.items() if name.endswith("--seed")}
    assert len(seeds) >= 5
    for kind in seeds.values():
        with pytest.raises(click.BadParameter):
            kind.convert("-1", None, None)
