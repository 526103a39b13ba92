"""`caffe-split tpm`: how the kernels moved."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.cli.options import WINDOW, names, print_json


@click.command()
@click.argument("net_or_solver", type=click.Path(path_type=Path))
@click.option(
    "--iter",
    "iteration",
    type=int,
    help="Snapshot to read.  [default: the last one, or the end of the last --window]",
)
@click.option(
    "--window",
    "windows",
    type=WINDOW,
    multiple=True,
    help="Window to measure from the series of snapshots, if no TPM layer did; several times for several.",
)
@click.option("--layers", help="Layers to report, separated by commas.  [default: all but helpers of splits]")
@click.option("--kernels", is_flag=True, help="A line for each kernel too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def tpm(
    net_or_solver: Path,
    iteration: int | None,
    windows: tuple[tuple[int, int], ...],
    layers: str | None,
    kernels: bool,
    as_json: bool,
) -> None:
    """Report TPM, displacement / path, of the kernels of NET_OR_SOLVER: 1 moved straight, low wandered.

    From the TPM layers' state in a snapshot (see `caffe-split instrument`), or from a series of snapshots.

    \b
    Example: caffe-split tpm solver.prototxt --iter 50000
    """
    from caffe_split.errors import CaffeSplitError
    from caffe_split.tpm.gather import gather, latest_window, momentum_of
    from caffe_split.tpm.report import as_dict, entropy_lines, header_line, kernel_lines, window_lines
    from caffe_split.training import open_training

    training = open_training(net_or_solver)
    if iteration is None:
        known = training.snapshots()
        if not known:
            raise CaffeSplitError(
                f"{net_or_solver}: no snapshots at {training.prefix}_iter_*.caffemodel. Train it first."
            )
        iteration = max((stop for _, stop in windows), default=max(known))
    scores = gather(training, iteration, windows, names(layers))
    momentum = momentum_of(training)
    if as_json:
        print_json([as_dict(score, momentum) for score in scores])
        return
    last = latest_window(scores)
    click.echo(header_line(last, momentum))
    for line in entropy_lines(last):
        click.echo(line)
    click.echo()
    for line in window_lines(scores):
        click.echo(line)
    if kernels:
        for line in kernel_lines(last, momentum):
            click.echo(line)
