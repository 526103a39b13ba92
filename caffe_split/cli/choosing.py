"""Options of commands that choose layers and kernels by scores, and split them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import click

from caffe_split.cli.ranges import FiniteRange, IntRange
from caffe_split.derivation.choice import BY_TPM, CHOICE_FORMS
from caffe_split.derivation.options import CALIBRATE, CHOICES, DEFAULTS

choose_by_option = click.option(
    "--choose-by",
    default=BY_TPM,
    show_default=True,
    help=f"What decides which layers are split: {CHOICE_FORMS}.",
)


def calibrate_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --calibrate, with its help `text`."""
    return click.option("--calibrate", type=IntRange(min=1), default=CALIBRATE, show_default=True, help=text)


def split_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is added where, with which initial values, and what measures it."""
    options = (
        click.option(
            "--kind",
            type=click.Choice(CHOICES["kind"]),
            default=DEFAULTS.kind,
            show_default=True,
            help="What is added to the slow half.",
        ),
        click.option(
            "--partition",
            default=DEFAULTS.partition,
            show_default=True,
            help="Which kernels are fast. By TPM: median, otsu, threshold:X, ratio:R; or score:NAME (as --choose-by "
            "has them), random:SEED, list:I,J,...; all: do not divide.",
        ),
        click.option(
            "--init",
            type=click.Choice(CHOICES["init"]),
            default=DEFAULTS.init,
            show_default=True,
            help="exact: the derived net computes the baseline's function; study: the studies' initial values.",
        ),
        click.option(
            "--seed",
            type=IntRange(min=0),
            default=DEFAULTS.seed,
            show_default=True,
            help="Seed of the symmetry-breaking noise.",
        ),
        click.option(
            "--added-lr",
            type=FiniteRange(min=0),
            default=DEFAULTS.added_lr,
            show_default=True,
            help="Factor on the lr_mult of the added convolutions, except a frozen skip.",
        ),
        click.option(
            "--branch-norm", is_flag=True, help="BatchNorm and Scale at the end of each branch; fold merges them, too."
        ),
        calibrate_option(
            "Batches of the net's training data that measure scores other than TPM, and branches for --branch-norm."
        ),
    )
    for option in reversed(options):
        command = option(command)
    return command
