"""`caffe-split instrument`: TPM layers into a net, and out again."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.cli.options import WINDOW, Shown, caffe_proto_option, names, state_options
from caffe_split.cli.ranges import IntRange
from caffe_split.cli.unread import leave_out


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.option(
    "--window",
    "windows",
    type=WINDOW,
    multiple=True,
    help="Iterations from and to which TPM is measured; can be repeated.",
)
@click.option(
    "--interval",
    type=IntRange(min=1),
    default=1,
    show_default=True,
    help="Iterations between two samples.",
)
@click.option("--layers", help="Convolutions to watch, separated by commas.  [default: all except helpers of splits]")
@click.option("--upgrade", is_flag=True, help="Write an old net in today's form; it cannot hold TPM layers as it is.")
@state_options("TRAIN")
@caffe_proto_option
@click.option("--remove", is_flag=True, help="Take the TPM layers out again; the file becomes what it was.")
@click.option("--out", type=click.Path(path_type=Path), help="File to write.  [default: standard output]")
@click.option("--in-place", is_flag=True, help="Write the file of NET itself; of a solver, that of its net.")
@click.option("--force", is_flag=True, help="Let --out replace a file.")
def instrument(
    net: Path,
    windows: tuple[tuple[int, int], ...],
    interval: int,
    layers: str | None,
    upgrade: bool,
    shown: Shown,
    caffe_proto: Path | None,
    remove: bool,
    out: Path | None,
    in_place: bool,
    force: bool,
) -> None:
    """Add TPM layers to NET (a net, or the solver that names it), which watch its convolutions while it trains.

    The result is printed, or written with --out or --in-place. Comments and all other text stay as they are. Do it
    before training: Caffe cannot resume a training after its net got TPM layers.

    \b
    Examples:
      caffe-split instrument train_val.prototxt --window 40000:50000 --interval 500 --in-place
      caffe-split instrument solver.prototxt --window 0:1000 --window 9000:10000 --layers conv1,conv2
      caffe-split instrument train_val.prototxt --remove --in-place
    """
    from caffe_split.tpm import attach

    if out == Path("-"):
        out = None  # standard output
    if out is not None and in_place:
        raise click.UsageError("--out and --in-place: choose one.")
    if out is None:
        leave_out("--force lets --out replace a file", "force")
    if remove == bool(windows):
        raise click.UsageError("give either --window START:STOP or --remove.")
    if remove:
        leave_out("--remove takes TPM layers out", "interval")
    training = shown.open(net, caffe_proto, upgrade)
    for note in training.upgraded:
        click.echo(f"{training.net_path}: {note}", err=True)
    if remove:
        plan = attach.uninstrument(training, names(layers))
    else:
        plan = attach.instrument(training, windows, interval=interval, layers=names(layers))
    if in_place:
        plan.write()
    elif out is not None:
        plan.write(out, force)
    else:
        click.echo(plan.training.net.to_bytes(), nl=False)
    for line in (plan, *plan.notes):
        click.echo(str(line), err=True)
