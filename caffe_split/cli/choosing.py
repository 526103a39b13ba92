"""Options of commands that choose layers and kernels by scores."""

from __future__ import annotations

import click

from caffe_split.derivation.choice import BY_TPM, CHOICE_FORMS
from caffe_split.derivation.options import CALIBRATE

choose_by_option = click.option(
    "--choose-by",
    default=BY_TPM,
    show_default=True,
    help=f"What decides which layers are split: {CHOICE_FORMS}.",
)

calibrate_option = click.option(
    "--calibrate",
    type=click.IntRange(min=1),
    default=CALIBRATE,
    show_default=True,
    help="Batches of the net's training data that measure scores other than TPM, and branches for --branch-norm.",
)
