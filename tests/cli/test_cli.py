"""What holds for every command: help with an example, and the exit statuses."""

from __future__ import annotations

from pathlib import Path

import pytest

from caffe_split import __version__
from caffe_split.cli import COMMANDS
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


def test_the_group_lists_every_command(tmp_path: Path) -> None:
    text = caffe_split("--help", cwd=tmp_path).stdout
    assert [name for name in COMMANDS if f"\n  {name} " not in text] == []


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
