"""The page of commands: each one's help, made from the program, above the examples that the page has."""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping

import click

from caffe_split.cli import COMMANDS, cli, plot_loss

_SECTION = re.compile(r"^## `(?:caffe-split )?([\w.-]+)`.*\n", re.MULTILINE)


def all_commands() -> dict[str, click.Command]:
    """Every command by its name, subcommands as `data digits`, and plot_loss.py."""
    context = click.Context(cli)
    found: dict[str, click.Command] = {}
    for name in COMMANDS:
        command = cli.get_command(context, name)
        assert command is not None
        found[name] = command
    return {**found, "plot_loss.py": plot_loss.command}


def undescribed(commands: Mapping[str, click.Command]) -> list[str]:
    """Options without a help, as `NAME --OPTION`, those of subcommands as well."""
    found = []
    for name, command in commands.items():
        if isinstance(command, click.Group):
            found += undescribed({f"{name} {each}": inner for each, inner in command.commands.items()})
        options = [param for param in command.params if isinstance(param, click.Option) and not param.help]
        found += [f"{name} {max(option.opts, key=len)}" for option in options]
    return found


def with_commands(text: str) -> str:
    """The page with usage, text and options below each command's heading; a command without a section gets one."""
    commands = all_commands()
    bare = undescribed(commands)
    if bare:
        raise SystemExit(f"options without a help: {', '.join(bare)}")
    named = _SECTION.findall(text)
    unknown = [name for name in named if name not in commands]
    if unknown:
        raise SystemExit(f"docs/commands.md describes {', '.join(unknown)}: there is no such command")
    text = text.rstrip() + "".join(f"\n\n## `{name}`\n" for name in commands if name not in named) + "\n"
    return _SECTION.sub(lambda found: f"{found[0]}\n{_help(found[1], commands[found[1]])}\n", text)


def _help(name: str, command: click.Command, level: str = "###") -> str:
    program = name if name.endswith(".py") else f"caffe-split {name}"
    # Usage as the terminal has it is broken to its width.
    context = click.Context(command, info_name=program, terminal_width=200, max_content_width=200)
    usage = command.get_usage(context).removeprefix("Usage: ")
    parts = [f"```text\n{usage}\n```", _paragraphs(command.help or "")]
    if isinstance(command, click.Group):
        for each in command.list_commands(context):
            inner = command.get_command(context, each)
            assert inner is not None
            parts += [f"{level} `{name} {each}`", _help(f"{name} {each}", inner, level + "#")]
    elif options := _options(command, context):
        parts.append(options)
    return "\n\n".join(parts)


def _paragraphs(text: str) -> str:
    """A command's help as Markdown: paragraphs, and what stands under \\b as it is."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", text.strip("\n")):
        lines = paragraph.splitlines()
        if lines[0].strip() == "\b":
            parts.append(f"```text\n{textwrap.dedent(chr(10).join(lines[1:]))}\n```")
        else:
            parts.append(_escaped(" ".join(line.strip() for line in lines)))
    return "\n\n".join(parts)


def _options(command: click.Command, context: click.Context) -> str:
    rows = [
        record
        for param in command.get_params(context)
        if isinstance(param, click.Option) and (record := param.get_help_record(context))
    ]
    lines = [f"| {_code(name)} | {_escaped(text)} |" for name, text in rows if "--help" not in name]
    return "\n".join(["| option | |", "| --- | --- |", *lines]) if lines else ""


def _code(text: str) -> str:
    return "`" + text.replace("|", "\\|") + "`"


def _escaped(text: str) -> str:
    """Text of a help in Markdown: words in backquotes stay code, other signs are what they are."""
    parts = re.split(r"(`[^`]*`)", text)
    return "".join(
        part.replace("|", "\\|") if part.startswith("`") else re.sub(r"([\\*_<>\[\]|$])", r"\\\1", part)
        for part in parts
    )
