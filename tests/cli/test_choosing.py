"""The options of how to split, which `make-derived` and `multisplit` share."""

from __future__ import annotations

import click
import pytest
from click.testing import CliRunner

from caffe_split.cli import cli
from caffe_split.cli.choosing import split_options
from caffe_split.derivation.options import DEFAULTS, DeriveOptions

GIVEN: list[DeriveOptions] = []


@click.command()
@split_options
def given(split: DeriveOptions) -> None:
    GIVEN.append(split)


def test_each_option_arrives() -> None:
    words = "--choose-by snip --kind skip --skip-pool average --partition all --init study --noise 0.5 --seed 3"
    runner = CliRunner()
    assert runner.invoke(given, [*words.split(), "--added-lr", "2", "--branch-norm", "--calibrate", "7"]).exit_code == 0
    assert runner.invoke(given, ["--residual-activation", "relu"]).exit_code == 0
    assert runner.invoke(given, []).exit_code == 0
    all_of_them, residual, none = GIVEN
    assert all_of_them == DeriveOptions(
        choose_by="snip",
        kind="skip",
        skip_pool="average",
        partition="all",
        init="study",
        noise=0.5,
        seed=3,
        added_lr=2,
        branch_norm=7,
        calibrate=7,
    )
    assert residual == DeriveOptions(activation="relu")
    assert none == DEFAULTS


@pytest.mark.parametrize("name", ["make-derived", "multisplit"])
@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("--kind", "dbb", "--skip-pool", "average"), "a split of kind dbb has no skip"),
        (("--kind", "skip", "--residual-activation", "relu"), "--residual-activation is for --kind residual"),
        (("--choose-by", "luck"), "luck"),
    ],
)
def test_what_no_split_reads_is_refused_by_both(name: str, words: tuple[str, ...], why: str) -> None:
    command = cli.get_command(click.Context(cli), name)
    assert command is not None
    found = CliRunner().invoke(command, ["solver.prototxt", *words])
    assert found.exit_code == 2 and why in found.stderr
