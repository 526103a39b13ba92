"""`caffe-split make-derived`: the derived net, solver and weights."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import click

from caffe_split.cli.choosing import split_options
from caffe_split.cli.options import (
    WINDOW,
    Shown,
    caffe_proto_option,
    end_dry_run,
    engine_option,
    ignore_extra_option,
    names,
    print_json,
    state_options,
    this_command,
    wrong_use,
)
from caffe_split.cli.ranges import IntRange
from caffe_split.derivation.options import CHOICES, DEFAULTS, NUM_SPLITS, DeriveOptions, Schedule


@click.command()
@click.argument("net_or_solver", type=click.Path(path_type=Path))
@click.option("--iter", "iteration", type=IntRange(min=0), help="Split the snapshot of this iteration.")
@click.option("--weights", type=click.Path(path_type=Path), help="Split these weights, in place of --iter.")
@click.option("--layers", help="Convolutions to split, separated by commas.")
@click.option(
    "--num-splits",
    type=IntRange(min=1),
    help=f"Split this many layers, the best ones by --choose-by.  [default: {NUM_SPLITS}]",
)
@click.option("--control", is_flag=True, help="Split nothing: the control, trained equally long from the same weights.")
@split_options
@click.option("--window", type=WINDOW, help="Window of TPM to use.  [default: the last one that the TPM layers saw]")
@click.option(
    "--schedule",
    type=click.Choice(CHOICES["schedule"]),
    default=DEFAULTS.schedule,
    show_default=True,
    help="restart: the parent's solver from iteration 0; continue: also a solver state, to go on from.",
)
@engine_option
@click.option("--deploy", type=click.Path(path_type=Path), help="A deploy net to change in the same way.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("derived1"),
    show_default=True,
    help="New folder for the result.",
)
@click.option("--force", is_flag=True, help="Replace the folder --out.")
@ignore_extra_option
@state_options("TRAIN")
@caffe_proto_option
@click.option("--dry-run", is_flag=True, help="Print the plan and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the plan as JSON.")
def make_derived(
    net_or_solver: Path,
    iteration: int | None,
    weights: Path | None,
    layers: str | None,
    num_splits: int | None,
    control: bool,
    split: DeriveOptions,
    window: tuple[int, int] | None,
    schedule: Schedule,
    engine: str | None,
    deploy: Path | None,
    out: Path,
    force: bool,
    ignore_extra: bool,
    shown: Shown,
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
      caffe-split make-derived solver.prototxt --iter 50000 --control --out control
      caffe-split make-derived solver.prototxt --weights w.caffemodel --choose-by snip --partition score:snip
      caffe-split make-derived deploy.prototxt --weights w.caffemodel --layers conv2 --partition random:0
    """
    from caffe_split.derivation.make import derive
    from caffe_split.files import check_out

    if (iteration is None) == (weights is None):
        raise click.UsageError("give either --iter N, a snapshot of the solver, or --weights FILE.")
    if layers is not None and num_splits is not None:
        raise click.UsageError("--layers and --num-splits: choose one.")
    if control and (layers is not None or num_splits is not None):
        raise click.UsageError("--control splits nothing: leave out --layers and --num-splits.")
    if not dry_run:
        check_out(out, force)
    chosen = names(layers)
    with wrong_use():
        options = replace(split, schedule=schedule, window=window, engine=engine, ignore_extra_weights=ignore_extra)
        training = shown.open(net_or_solver, caffe_proto)
        plan = derive(
            training,
            iteration,
            weights=weights,
            layers=None if control else chosen if chosen is not None else num_splits or NUM_SPLITS,
            options=options,
            out=out,
            deploy=deploy,
        )
    if window is not None and all(layer.scores is None for layer in plan.layers):
        click.echo("note: --window is not looked at: neither layers nor kernels are chosen by TPM", err=True)
    if not dry_run:
        plan.write(force, command=this_command())
    if as_json:
        print_json(plan.as_dict())
        return
    click.echo(str(plan))
    if dry_run:
        end_dry_run(check_out, out, force)
    elif plan.train_command() is not None:
        click.echo(f"train it: {plan.train_command()}")
