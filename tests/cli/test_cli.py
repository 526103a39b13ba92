"""What holds for every command: help with an example, and the exit statuses."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import click
import pytest

from caffe_split import __version__
from caffe_split.cli import COMMANDS, cli
from tests.support import caffe_split


@pytest.mark.parametrize("command", COMMANDS)
def test_help_has_an_example(command: str, tmp_path: Path) -> None:
    text = caffe_split(command, "--help", cwd=tmp_path).stdout
    assert "Usage:" in text
    assert f"caffe-split {command} " in text.split("Example", 1)[1], text


@pytest.mark.parametrize("command", COMMANDS)
def test_wrong_use_is_status_2(command: str, tmp_path: Path) -> None:
    result = caffe_split(command, "--no-such-option", cwd=tmp_path, status=2)
    assert "--no-such-option" in result.stderr or "Missing" in result.stderr


def test_the_group_lists_every_command_with_the_beginning_of_its_help(tmp_path: Path) -> None:
    """The list is read from the source of the commands; they themselves say the same."""
    text = caffe_split("--help", cwd=tmp_path).stdout
    listed = dict(line.split(None, 1) for line in text.partition("Commands:\n")[2].splitlines())
    limit = min(len(line) for line in listed.values())
    context = click.Context(cli)
    said = {name: cli.get_command(context, name).get_short_help_str(limit).rstrip(".") for name in COMMANDS}
    assert list(listed) == list(COMMANDS)
    assert {name: line for name, line in listed.items() if not line.startswith(said[name])} == {}


def test_the_list_of_commands_imports_none_of_them() -> None:
    code = "import sys\nfrom caffe_split.cli import cli\ncli(['--help'], standalone_mode=False)\n"
    code += "print(sorted(name for name in sys.modules if name.startswith('caffe_split.') or name == 'numpy'))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "['caffe_split.cli', 'caffe_split.errors']"


@pytest.mark.parametrize(
    ("word", "said"),
    [
        ("make-derive", "did you mean 'make-derived'?"),
        ("Train", "did you mean 'train'?"),
        ("tabel", "did you mean 'table'?"),
        ("zzz", "there are: instrument, tpm, make-derived"),
    ],
)
def test_a_mistyped_command_names_the_nearest(word: str, said: str, tmp_path: Path) -> None:
    assert f"no command '{word}'; {said}" in caffe_split(word, "x", cwd=tmp_path, status=2).stderr


def test_version(tmp_path: Path) -> None:
    assert caffe_split("--version", cwd=tmp_path).stdout.strip().endswith(__version__)


@pytest.mark.parametrize(
    "arguments",
    [
        ("tpm", "none.prototxt"),
        ("make-derived", "none.prototxt", "--iter", 100),
        ("verify", "none.prototxt", "other.prototxt"),
        ("instrument", "none.prototxt", "--window", "0:10"),
        ("train", "none.prototxt"),
        ("best", "none.log"),
        ("final", "none.log"),
        ("table", "none.log"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_a_missing_file_is_one_line_and_status_1(arguments: tuple[object, ...], tmp_path: Path) -> None:
    result = caffe_split(*arguments, cwd=tmp_path, status=1)
    assert str(arguments[1]) in result.stderr
    assert len(result.stderr.strip().splitlines()) == 1
    assert list(tmp_path.iterdir()) == []
