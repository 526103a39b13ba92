"""Errors name no option that the command in which they appear does not have."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import caffe_split
from caffe_split.cli import COMMANDS, cli

PACKAGE = Path(caffe_split.__file__).parent
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]+")
# Such a text names the command whose option it is.
COMMAND = re.compile(r"`?caffe-split (?:" + "|".join(COMMANDS) + r")\b")
# These run the functions of other commands with arguments of their own; `data` makes its commands in a loop.
DRIVERS = {"multisplit", "study", "report", "data"}
# Errors of functions that a command reaches by name only: a method of a class of which it uses others, or a check of
# what this command always gives.
NOT_REACHED = {
    ("export", "caffe_split.backends.check_weights.check_weights"),
    ("completion", "caffe_split.trainlog.model.TrainingLog"),
    ("fold", "caffe_split.backends.verify._recorded_weights"),
    ("kernels", "caffe_split.backends.check_weights.check_weights"),
    ("tpm", "caffe_split.trainlog.model.TrainingLog"),
    ("train", "caffe_split.trainlog.model.TrainingLog"),
    ("watch", "caffe_split.trainlog.model.TrainingLog"),
}


class Code:
    """The functions, classes and constants of the package, and which of them each one names."""

    def __init__(self) -> None:
        self.bodies: dict[str, ast.AST] = {}
        self.imports: dict[str, dict[str, str]] = {}
        for path in sorted(PACKAGE.rglob("*.py")):
            parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
            module = ".".join(parts[:-1] if parts[-1] == "__init__" else parts)
            tree = ast.parse(path.read_text(encoding="utf-8"))
            self.imports[module] = {
                alias.asname or alias.name: f"{node.module}.{alias.name}"
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom)
                for alias in node.names
            }
            for node in tree.body:
                if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                    self.bodies[f"{module}.{node.name}"] = node

    def named(self, name: str) -> Iterator[str]:
        module = name.rsplit(".", 1)[0]
        known = self.imports[module]
        for node in ast.walk(self.bodies[name]):
            if isinstance(node, ast.Name):
                yield known.get(node.id, f"{module}.{node.id}")
            elif isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
                yield f"{known.get(node.value.id, '')}.{node.attr}"

    def reached(self, start: str) -> set[str]:
        found, todo = {start}, [start]
        while todo:
            new = {name for name in self.named(todo.pop()) if name in self.bodies} - found
            found |= new
            todo += new
        return found

    def errors(self, name: str) -> Iterator[str]:
        """The texts in the `raise` statements of a function or class."""
        for raised in ast.walk(self.bodies[name]):
            if isinstance(raised, ast.Raise):
                pieces = (node.value for node in ast.walk(raised) if isinstance(node, ast.Constant))
                yield "".join(piece for piece in pieces if isinstance(piece, str))


@pytest.fixture(scope="module")
def code() -> Code:
    return Code()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in DRIVERS])
def test_errors_name_options_that_the_command_has(code: Code, name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = {word for param in command.params for word in (*param.opts, *param.secondary_opts)}
    reached = code.reached(f"caffe_split.cli.{COMMANDS[name]}.{name.replace('-', '_')}")
    assert len(reached) > 5
    for function in sorted(reached):
        if (name, function) in NOT_REACHED:
            continue
        for text in code.errors(function):
            strange = set(OPTION.findall(text)) - options
            assert not strange or COMMAND.search(text), f"{function} names {', '.join(sorted(strange))}: {text}"
