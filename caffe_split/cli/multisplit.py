"""`caffe-split multisplit`: rounds of splits, folded back and compared with controls, by one command."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffe_split.cli.choosing import split_options
from caffe_split.cli.options import WINDOW, engine_option, ignore_extra_option, names, print_json, wrong_use
from caffe_split.cli.ranges import IntRange
from caffe_split.cli.unread import leave_out
from caffe_split.derivation.options import CHOICES, DEFAULTS, DeriveOptions, Schedule
from caffe_split.rounds.options import LAYERS, ROUNDS, MultiSplitOptions

if TYPE_CHECKING:
    from caffe_split.rounds.loop import Loop

AUTO = "auto"


class _OrAuto(click.ParamType):
    """A value of another type, or `auto`, which is None."""

    def __init__(self, other: click.ParamType) -> None:
        self.other, self.name = other, f"{other.name} or {AUTO}"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        if value in (None, AUTO):
            return None
        try:
            return self.other.convert(value, param, ctx)
        except click.BadParameter as error:
            self.fail(f"{error.message.rstrip('.')}; or give {AUTO}", param, ctx)


@click.command()
@click.argument("solver", type=click.Path(path_type=Path))
@click.option("--rounds", type=IntRange(min=1), default=ROUNDS, show_default=True, help="How often to split.")
@click.option(
    "--num-splits",
    type=IntRange(min=1),
    help=f"Layers that each round splits.  [default: {LAYERS}, or all that can be split if they are fewer]",
)
@click.option("--layers", help="The layers of the only round (with --rounds 1), separated by commas.")
@click.option(
    "--iter",
    "iteration",
    type=_OrAuto(IntRange(min=1)),
    metavar="N|auto",
    default=AUTO,
    show_default=True,
    help="Split each run at this iteration; auto: at the end of the window in which the loss falls fastest.",
)
@click.option(
    "--window",
    type=_OrAuto(WINDOW),
    metavar="START:STOP|auto",
    default=AUTO,
    show_default=True,
    help="Measure TPM in this window; auto: in the iterations before the split.",
)
@click.option("--weights", type=click.Path(path_type=Path), help="An old caffemodel to improve.")
@ignore_extra_option
@split_options
@click.option(
    "--schedule",
    type=click.Choice(CHOICES["schedule"]),
    default=DEFAULTS.schedule,
    show_default=True,
    help="restart: each round trains from iteration 0; continue: the only round goes on at the split.",
)
@click.option("--no-control", is_flag=True, help="Leave out the controls, which train equally long without a split.")
@engine_option
@click.option("--threads", type=IntRange(min=1), help="Threads of each training.  [default: the engine chooses]")
@click.option("--deploy", type=click.Path(path_type=Path, exists=True), help="The deploy net, copied into best/.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("multisplit"),
    show_default=True,
    help="Folder of all runs; the same command goes on in it.",
)
@click.option("--dry-run", is_flag=True, help="Print the steps and how long they take, and train nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print the outcome as JSON.")
def multisplit(
    solver: Path,
    rounds: int,
    num_splits: int | None,
    layers: str | None,
    iteration: int | None,
    window: tuple[int, int] | None,
    weights: Path | None,
    ignore_extra: bool,
    split: DeriveOptions,
    schedule: Schedule,
    no_control: bool,
    engine: str | None,
    threads: int | None,
    deploy: Path | None,
    out: Path,
    dry_run: bool,
    as_json: bool,
) -> int:
    """Improve the net of SOLVER by rounds of splits, each folded back to the net's own cost.

    A baseline is trained, watched by TPM layers; with --iter N your own training is taken for it, if its snapshots are
    there. Each round splits the last one's
    snapshot, verifies the derived net, trains, folds and tests it. Beside each round a control trains the same net
    equally long without a split. The best round's folded net and weights are in OUT/best at the end.

    The same command goes on where it was stopped or killed. Your files are not changed.

    \b
    Examples:
      caffe-split multisplit solver.prototxt
      caffe-split multisplit solver.prototxt --iter 50000 --num-splits 9 --kind skip --dry-run
      caffe-split multisplit solver.prototxt --weights old.caffemodel --choose-by snip --partition score:snip
      caffe-split multisplit solver.prototxt --weights old.caffemodel --rounds 1 --deploy deploy.prototxt
    """
    from caffe_split.rounds.loop import plan_loop
    from caffe_split.rounds.outputs import BEST
    from caffe_split.rounds.screen import make_screen

    if layers is not None and num_splits is not None:
        raise click.UsageError("--layers and --num-splits: choose one.")
    if dry_run:
        leave_out("--dry-run prints the steps, and has no outcome", "as_json")
    named = names(layers)
    if named == []:
        raise click.UsageError("--layers names no layer.")
    with wrong_use():
        options = MultiSplitOptions(
            rounds=rounds,
            layers=tuple(named) if named else num_splits,
            iteration=iteration,
            window=window,
            control=not no_control,
            derive=replace(split, schedule=schedule, ignore_extra_weights=ignore_extra),
            engine=engine,
            threads=threads,
        )
        loop = plan_loop(solver, options=options, weights=weights, deploy=deploy, out=out)
    if dry_run:
        _print_plan(loop)
        return 0
    with make_screen() as screen:
        found = loop.run(screen)
    if as_json:
        print_json(found.as_dict())
    else:
        where = "" if found.best is None else f"; the best folded net is in {out / BEST}"
        click.echo(f"\n{found.table()}\n\n{found.sentence()}\n\nall of it is in {out}{where}")
    return 1 if found.stopped else 0


def _print_plan(loop: Loop) -> None:
    from caffe_split.rounds.duration import estimate

    if loop.note:
        click.echo(loop.note)
    click.echo(loop.choices())
    left = {step.title for step in loop.left()}
    for step in loop.steps:
        size = f"  {step.iterations} iterations" if step.iterations else ""
        click.echo(f"{step.title}{size}{'' if step.title in left else '  done'}")
    click.echo(f"{estimate(loop)}; nothing trained (--dry-run)")
