"""The command `train`."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click

from caffe_split.backends.choose import names
from caffe_split.backends.process import GRACE
from caffe_split.cli.ranges import FiniteRange, IntRange

if TYPE_CHECKING:
    from caffe_split.backends.train_plan import TrainPlan


@click.command()
@click.argument("solver", type=click.Path())
@click.option("--weights", metavar="FILE[,FILE]", help="Start from these weights (.caffemodel).")
@click.option(
    "--snapshot", metavar="FILE", help="Resume from this .solverstate; torch: auto for the newest whole one, if any."
)
@click.option("--log", metavar="FILE", help="Where the log goes.  [default: train.log beside the solver]")
@click.option("--force", is_flag=True, help="Replace a log and snapshots that are there.")
@click.option("--append", is_flag=True, help="Continue a log that is there, as when resuming.")
@click.option(
    "--threads",
    type=IntRange(1),
    metavar="N",
    help="Threads of each process.  [default: of caffe OPENBLAS_NUM_THREADS if set, else 1; of torch OMP_NUM_THREADS "
    "if set, else as many cores as pay for the net; --processes divides all cores]",
)
@click.option(
    "--workers",
    type=IntRange(1),
    metavar="N",
    help="Threads that decode images for a data layer, per process; torch only.  [default: one per core, and "
    "one more, at most 4]",
)
@click.option(
    "--engine",
    type=click.Choice(names()),
    help="The real Caffe, or the same training on PyTorch.  [default: caffe where a built one is found, else torch]",
)
@click.option(
    "--device",
    type=click.Choice(["cpu", "cuda"]),
    help="Where torch runs.  [default: cuda if the solver says solver_mode: GPU, else cpu]",
)
@click.option(
    "--seed",
    type=IntRange(0, 2**63 - 1),
    metavar="N",
    help="Seed of all random numbers, in place of the solver's random_seed; torch only.",
)
@click.option(
    "--precision",
    type=click.Choice(["fp32", "tf32", "bf16"]),
    help="Numbers that torch computes with; TEST nets stay fp32.  [default: fp32, as Caffe]",
)
@click.option("--compile", is_flag=True, help="Run the net through torch.compile: slow to start; for CUDA devices.")
@click.option(
    "--processes",
    type=IntRange(1),
    metavar="K",
    help="Divide every batch over K torch processes on this machine; over several: torchrun.",
)
@click.option("--sync-bn", is_flag=True, help="With --processes: BatchNorm's statistics are those of the whole batch.")
@click.option(
    "--scale-batch", is_flag=True, help="With --processes: each takes the whole batch_size, as Caffe's GPUs do."
)
@click.option(
    "--continue-data",
    is_flag=True,
    help="After a resume, go on with the data where they stopped, as --snapshot auto always does; torch only.",
)
@click.option(
    "--python-layers",
    metavar="FILE",
    help="Import the PyTorch classes that stand for the net's Python layers, from a .py or a module; torch only.",
)
@click.option(
    "--caffe", metavar="PATH", help="The caffe program.  [default: the one beside this python, else the one in PATH]"
)
@click.option(
    "--grace",
    type=FiniteRange(0),
    default=GRACE,
    show_default=True,
    metavar="SECONDS",
    help="How long an interrupted Caffe may take for its snapshot.",
)
def train(
    solver: str,
    weights: str | None,
    snapshot: str | None,
    log: str | None,
    force: bool,
    append: bool,
    threads: int | None,
    workers: int | None,
    caffe: str | None,
    grace: float,
    engine: str | None,
    device: str | None,
    seed: int | None,
    precision: str | None,
    compile: bool,
    processes: int | None,
    sync_bn: bool,
    scale_batch: bool,
    continue_data: bool,
    python_layers: str | None,
) -> int:
    """Train the net of SOLVER, and write the log to train.log beside the solver.

    It trains with Caffe; with --engine torch, and where no Caffe is built, PyTorch trains from the same solver, net,
    data, weights and solver states. Relative paths in them start from the current directory. Ctrl-C is passed on once:
    Caffe writes a snapshot and ends; then the command to resume is shown. The exit status is Caffe's own, or 130 after
    Ctrl-C.

    \b
    Examples:
      caffe-split train derived1/solver.prototxt
      caffe-split train derived1/solver.prototxt --snapshot derived1/net_iter_500.solverstate --append
      caffe-split train derived1/solver.prototxt --engine torch
      caffe-split train derived1/solver.prototxt --engine torch --processes 2 --snapshot auto --append
    """
    from caffe_split.backends.reporter import make_reporter
    from caffe_split.backends.train import reason_of, run_training
    from caffe_split.backends.train_plan import plan_training, printable, resume_command
    from caffe_split.engine.spec.command import Choices

    plan = plan_training(
        solver,
        weights=weights,
        snapshot=snapshot,
        log=log,
        force=force,
        append=append,
        threads=threads,
        caffe=caffe,
        engine=engine,
        choices=Choices(
            device, seed, precision, compile, processes, sync_bn, scale_batch, continue_data, python_layers, workers
        ),
    )
    why = f" ({plan.why})" if plan.why else ""
    click.echo(f"engine {plan.engine}{why}: {printable(plan)}", err=True)
    with make_reporter(plan.settings.max_iter) as reporter:
        outcome = run_training(plan, reporter, grace)
    if outcome.status == 0:
        click.echo(f"done; the log is {plan.log}", err=True)
        if not plan.settings.max_iter:
            click.echo(f"note: max_iter of {plan.solver} is 0: nothing was trained", err=True)
    elif outcome.interrupted is not None and outcome.state is not None:
        click.echo(f"stopped; to resume:\n  {resume_command(plan, outcome.state)}", err=True)
    elif outcome.interrupted is not None:
        click.echo(f"stopped without a snapshot{_why_none(plan)}; it starts again with --force", err=True)
    else:
        reason = f"see the end of {outcome.log}"
        if outcome.fatal:
            reason = f"{outcome.log}:{outcome.line}: {reason_of(plan, outcome)}"
        click.echo(f"caffe-split: {plan.engine} ended with status {outcome.status}; {reason}", err=True)
    return outcome.status


def _why_none(plan: TrainPlan) -> str:
    if not plan.settings.snapshot_after_train:
        return f": {plan.solver} says snapshot_after_train: false"
    return ""
