"""`caffe-split make-derived`: the derived net, solver and weights."""

from __future__ import annotations

import math
from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_split.cli.options import WINDOW, caffe_proto_option, engine_option, ignore_extra_option, names, print_json
from caffe_split.split.kinds import KIND_NAMES

if TYPE_CHECKING:
    from caffe_split.split.kinds import KindName
    from caffe_split.split.layer import Init
    from caffe_split.split.parts import Activation, SkipPool


@click.command()
@click.argument("net_or_solver", type=click.Path(path_type=Path))
@click.option("--iter", "iteration", type=click.IntRange(min=0), help="Split the snapshot of this iteration.")
@click.option("--weights", type=click.Path(path_type=Path), help="Split these weights, in place of --iter.")
@click.option("--layers", help="Convolutions to split, separated by commas.")
@click.option(
    "--num-splits",
    type=click.IntRange(min=1),
    help="Split so many, those of highest TPM entropy.  [default: 1]",
)
@click.option(
    "--kind",
    type=click.Choice(KIND_NAMES),
    default="residual",
    show_default=True,
    help="What is added to the slow half.",
)
@click.option(
    "--skip-pool",
    type=click.Choice(["stride", "average"]),
    default="stride",
    show_default=True,
    help="Skip of a strided convolution: every s-th pixel, or the average of s x s.",
)
@click.option(
    "--residual-activation",
    type=click.Choice(["none", "relu"]),
    default="none",
    show_default=True,
    help="Between residual_pre and residual_post.",
)
@click.option(
    "--partition",
    default="median",
    show_default=True,
    help="median, otsu, threshold:X, ratio:R, random:SEED or list:I,J,...",
)
@click.option(
    "--init",
    type=click.Choice(["exact", "study"]),
    default="exact",
    show_default=True,
    help="exact: the baseline's function; study: the studies' numbers.",
)
@click.option(
    "--noise",
    type=click.FloatRange(min=0),
    default=0.01,
    show_default=True,
    help="Standard deviation of the symmetry-breaking noise.",
)
@click.option("--seed", type=click.IntRange(min=0), default=0, show_default=True, help="Seed of the noise.")
@click.option("--window", type=WINDOW, help="Window of TPM to use.  [default: the last one that the TPM layers saw]")
@click.option(
    "--schedule",
    type=click.Choice(["restart", "continue"]),
    default="restart",
    show_default=True,
    help="restart: the parent's solver from iteration 0; continue: also a solver state, to go on from.",
)
@click.option(
    "--added-lr",
    type=click.FloatRange(min=0),
    default=1.0,
    show_default=True,
    help="What lr_mult of the added convolutions, a frozen skip apart, is multiplied by.",
)
@click.option("--branch-norm", is_flag=True, help="BatchNorm and Scale at the end of each branch; they fold, too.")
@click.option(
    "--calibrate",
    type=click.IntRange(min=1),
    default=20,
    show_default=True,
    help="Batches of the net's training data that --branch-norm measures.",
)
@engine_option
@click.option("--deploy", type=click.Path(path_type=Path), help="A deploy net to change alike.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("derived1"),
    show_default=True,
    help="New folder for the result.",
)
@click.option("--force", is_flag=True, help="Replace the folder --out.")
@ignore_extra_option
@caffe_proto_option
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def make_derived(
    net_or_solver: Path,
    iteration: int | None,
    weights: Path | None,
    layers: str | None,
    num_splits: int | None,
    kind: KindName,
    skip_pool: SkipPool,
    residual_activation: Activation,
    partition: str,
    init: Init,
    noise: float,
    seed: int,
    window: tuple[int, int] | None,
    schedule: str,
    added_lr: float,
    branch_norm: bool,
    calibrate: int,
    engine: str | None,
    deploy: Path | None,
    out: Path,
    force: bool,
    ignore_extra: bool,
    caffe_proto: Path | None,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Split convolutions of NET_OR_SOLVER into a fast and a slow half and write the derived net.

    The folder --out gets the net and the solver under their own names, init.caffemodel and manifest.json. Train it
    with `caffe train -solver OUT/solver.prototxt`, from the directory in which this command was run.

    \b
    Examples:
      caffe-split make-derived baseline.prototxt --iter 50000
      caffe-split make-derived solver.prototxt --iter 50000 --num-splits 9 --kind skip --out skip9
      caffe-split make-derived deploy.prototxt --weights w.caffemodel --layers conv2 --partition random:0
    """
    from caffe_split.backends.check_weights import STATE_NAME
    from caffe_split.derivation.choose import choose_layers
    from caffe_split.derivation.make import make_plan
    from caffe_split.derivation.write import write_derived
    from caffe_split.files import check_out
    from caffe_split.net.training import open_training
    from caffe_split.split.layer import SplitOptions
    from caffe_split.split.partition import parse_rule
    from caffe_split.tpm.collect import gather, latest_window, momentum_of

    if (iteration is None) == (weights is None):
        raise click.UsageError("give either --iter N, a snapshot of the solver, or --weights FILE.")
    if layers is not None and num_splits is not None:
        raise click.UsageError("--layers and --num-splits: choose one.")
    check_out(out, force or dry_run)
    training = open_training(net_or_solver, caffe_proto=caffe_proto)
    rule = parse_rule(partition)
    chosen = names(layers)
    if chosen == []:
        raise click.UsageError("--layers names no layer.")
    for name, value in (("--noise", noise), ("--added-lr", added_lr)):
        if not math.isfinite(value):
            raise click.UsageError(f"{name} is not a finite number.")
    path = weights if weights is not None else training.snapshot(iteration or 0)
    scores = []
    if rule.needs_scores or chosen is None:
        if iteration is None:
            raise click.UsageError(
                "--weights alone has no TPM: give --layers, and a --partition random:SEED or list:..."
            )
        scores = latest_window(gather(training, iteration, (window,) if window else ()))
    plan = make_plan(
        training,
        path,
        iteration,
        choose_layers(training.net, chosen, num_splits or 1, scores),
        scores,
        rule,
        SplitOptions(
            kind, init, noise, seed, residual_activation, skip_pool, calibrate if branch_norm else 0, added_lr
        ),
        out,
        momentum_of(training),
        schedule,
        deploy,
        ignore_extra,
        engine=engine,
    )
    if not dry_run:
        write_derived(plan, force)
    if as_json:
        print_json(plan.as_dict())
        return
    for line in plan.lines():
        click.echo(line)
    if dry_run:
        click.echo("nothing written (--dry-run)")
    elif plan.solver_path is not None:
        state = "" if plan.state is None else f" --snapshot {out / STATE_NAME}"
        click.echo(f"train it: caffe-split train {out / plan.solver_path.name}{state}")
