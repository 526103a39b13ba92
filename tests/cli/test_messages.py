"""Texts name no option that the command in which they appear does not have."""

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
# `data` makes its commands in a loop; `report` and the tests of installed programs show commands to type.
SHOWN = {"data", "report", "doctor"}
# A loop of rounds and a study train in folders of their own, where they replace and go on from what they made
# themselves, by logs and snapshots that they name, on one rank.
OWN_TRAININGS = (
    "backends.train_check._check_state",
    "backends.train_plan.check_overwritten",
    "backends.train_plan.plan_training",
    "trainlog.ranks.RankFilter",
    "trainlog.model.TrainingLog",
)
# Errors of functions that a command reaches by name only: a method of a class of which it uses others, or a check of
# what this command always gives.
NOT_REACHED = {
    ("export", "caffe_split.backends.check_weights.check_weights"),
    ("completion", "caffe_split.trainlog.model.TrainingLog"),
    ("fold", "caffe_split.backends.verify._check_made_from"),
    ("fold", "caffe_split.backends.verify._recorded"),
    ("kernels", "caffe_split.backends.check_weights.check_weights"),
    ("tpm", "caffe_split.trainlog.model.TrainingLog"),
    ("train", "caffe_split.trainlog.model.TrainingLog"),
    ("watch", "caffe_split.trainlog.model.TrainingLog"),
    ("completion", "caffe_split.trainlog.ranks.RankFilter"),
    ("tpm", "caffe_split.trainlog.ranks.RankFilter"),
    ("train", "caffe_split.trainlog.ranks.RankFilter"),
    # They are in the package's own words, and show no option of the command.
    ("study", "caffe_split.backends.choose.in_words"),
    ("study", "caffe_split.backends.train_plan._engines"),
    # A loop always gives the weights, opens old nets in today's form, and replaces its own page and nets.
    ("multisplit", "caffe_split.backends.verify._check_made_from"),
    ("multisplit", "caffe_split.backends.verify._recorded"),
    ("multisplit", "caffe_split.tpm.attach.InstrumentPlan"),
    ("multisplit", "caffe_split.tpm.attach._changeable"),
    # The command that comes next, see `DerivePlan.train_command`.
    ("make-derived", "caffe_split.derivation.plan.DerivePlan"),
    ("multisplit", "caffe_split.derivation.plan.DerivePlan"),
    *((loop, f"caffe_split.{name}") for loop in ("multisplit", "study") for name in OWN_TRAININGS),
}
# Options of other programs.
FOREIGN = {"--label", "--tag-output"}


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

    def texts(self, name: str) -> Iterator[str]:
        """All sentences in a function or class except docstrings; of a command only those that it raises.

        Its others are its help, which may speak of other commands.
        """
        body = self.bodies[name]
        roots = [body]
        if name.startswith("caffe_split.cli."):
            roots = [node for node in ast.walk(body) if isinstance(node, ast.Raise)]
        for root in roots:
            parts: set[int] = set()  # docstrings, and the constants of a text that is put together
            for node in ast.walk(root):
                if isinstance(node, ast.Expr) and isinstance(node.value, ast.Constant):
                    parts.add(id(node.value))
                elif isinstance(node, ast.JoinedStr):
                    pieces = [piece for piece in ast.walk(node) if isinstance(piece, ast.Constant)]
                    parts |= {id(piece) for piece in pieces}
                    yield "".join(piece.value for piece in pieces if isinstance(piece.value, str))
                elif isinstance(node, ast.Constant) and id(node) not in parts:
                    # A name alone is an option in a table.
                    yield node.value if isinstance(node.value, str) and " " in node.value else ""


@pytest.fixture(scope="module")
def code() -> Code:
    return Code()


@pytest.mark.parametrize("name", [name for name in COMMANDS if name not in SHOWN])
def test_texts_name_options_that_the_command_has(code: Code, name: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    options = {word for param in command.params for word in (*param.opts, *param.secondary_opts)}
    reached = code.reached(f"caffe_split.cli.{COMMANDS[name]}.{name.replace('-', '_')}")
    assert len(reached) > 5
    for function in sorted(reached):
        if (name, function) in NOT_REACHED:
            continue
        for text in code.texts(function):
            strange = set(OPTION.findall(text)) - options - FOREIGN
            assert not strange or COMMAND.search(text), f"{function} names {', '.join(sorted(strange))}: {text}"
