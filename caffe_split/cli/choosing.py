"""Options of commands that choose layers and kernels by scores, and split them."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import click

from caffe_split.cli.options import wrong_use
from caffe_split.cli.ranges import FiniteRange, IntRange
from caffe_split.derivation.choice import BY_TPM, CHOICE_FORMS
from caffe_split.derivation.options import CALIBRATE, CHOICES, DEFAULTS, DeriveOptions


def calibrate_option(text: str) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """The option --calibrate, with its help `text`."""
    return click.option("--calibrate", type=IntRange(min=1), default=CALIBRATE, show_default=True, help=text)


def split_options(command: Callable[..., Any]) -> Callable[..., Any]:
    """The options that say what is split by what, what is added with which initial values, and what measures it.

    The command gets them as one parameter `split`, a `DeriveOptions`.
    """

    @click.option(
        "--choose-by",
        default=BY_TPM,
        show_default=True,
        help=f"What decides which layers are split: {CHOICE_FORMS}.",
    )
    @click.option(
        "--kind",
        type=click.Choice(CHOICES["kind"]),
        default=DEFAULTS.kind,
        show_default=True,
        help="What is added to the slow half.",
    )
    @click.option(
        "--skip-pool",
        type=click.Choice(CHOICES["skip_pool"]),
        default=DEFAULTS.skip_pool,
        show_default=True,
        help="Skip or identity of a strided convolution: every s-th pixel, or the average of s x s.",
    )
    @click.option(
        "--residual-activation",
        type=click.Choice(CHOICES["activation"]),
        default=DEFAULTS.activation,
        show_default=True,
        help="Activation between residual_pre and residual_post.",
    )
    @click.option(
        "--partition",
        default=DEFAULTS.partition,
        show_default=True,
        help="Which kernels are fast. By TPM: median, otsu, threshold:X, ratio:R; or score:NAME (as --choose-by "
        "has them), random:SEED, list:I,J,...; all: do not divide.",
    )
    @click.option(
        "--init",
        type=click.Choice(CHOICES["init"]),
        default=DEFAULTS.init,
        show_default=True,
        help="exact: the derived net computes the baseline's function; study: the studies' initial values.",
    )
    @click.option(
        "--noise",
        type=FiniteRange(min=0),
        default=DEFAULTS.noise,
        show_default=True,
        help="Standard deviation of the symmetry-breaking noise.",
    )
    @click.option(
        "--seed",
        type=IntRange(min=0),
        default=DEFAULTS.seed,
        show_default=True,
        help="Seed of the symmetry-breaking noise.",
    )
    @click.option(
        "--added-lr",
        type=FiniteRange(min=0),
        default=DEFAULTS.added_lr,
        show_default=True,
        help="Factor on the lr_mult of the added convolutions, except a frozen skip.",
    )
    @click.option(
        "--branch-norm", is_flag=True, help="BatchNorm and Scale at the end of each branch; fold merges them, too."
    )
    @calibrate_option(
        "Batches of the net's training data that measure scores other than TPM, and branches for --branch-norm."
    )
    @functools.wraps(command)
    def with_split(*args: Any, residual_activation: Any, branch_norm: bool, calibrate: int, **given: Any) -> Any:
        kind = given["kind"]
        if given["skip_pool"] != DEFAULTS.skip_pool and kind not in ("skip", "identity"):
            raise click.UsageError(f"--skip-pool is for --kind skip and identity; a split of kind {kind} has no skip.")
        if residual_activation != DEFAULTS.activation and kind != "residual":
            raise click.UsageError("--residual-activation is for --kind residual.")
        chosen = {name: given.pop(name) for name in _SAME_NAME}
        with wrong_use():
            split = DeriveOptions(
                **chosen,
                activation=residual_activation,
                branch_norm=calibrate if branch_norm else 0,
                calibrate=calibrate,
            )
        return command(*args, split=split, **given)

    return with_split


_SAME_NAME = ("choose_by", "kind", "skip_pool", "partition", "init", "noise", "seed", "added_lr")
