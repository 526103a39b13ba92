"""`caffe-split time`: how long each layer of a net takes."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.cli.options import (
    Shown,
    caffe_proto_option,
    device_option,
    engine_option,
    print_json,
    state_options,
    threads_option,
)
from caffe_split.cli.ranges import IntRange


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.option(
    "--iterations", type=IntRange(1), default=50, show_default=True, metavar="N", help="Iterations that count."
)
@state_options("TRAIN")
@engine_option
@device_option
@threads_option
@click.option(
    "--caffe", metavar="PATH", help="The caffe program.  [default: the one beside this python, else the one in PATH]"
)
@caffe_proto_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per layer.")
def time(
    net: Path,
    iterations: int,
    shown: Shown,
    engine: str | None,
    device: str,
    threads: int | None,
    caffe: str | None,
    caffe_proto: Path | None,
    as_json: bool,
    as_csv: bool,
) -> None:
    """Measure how long each layer of NET takes, forward and backward, and print it as `caffe time` does.

    NET is a net, or the solver that names it. After each time comes its share of the total. Forward times also have
    FLOP/s, and the memory of the layer's tops and parameters. In Caffe the program `caffe time` measures; on PyTorch
    each layer is run by itself.

    \b
    Example: caffe-split time train_val.prototxt --engine torch --iterations 10
    """
    from caffe_split.inference.given import RunOptions
    from caffe_split.inference.timing import time_net

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    options = RunOptions(engine, shown.asked(), device, threads, caffe_proto=caffe_proto, program=caffe)
    plain = not (as_json or as_csv)

    def say(number: int, took: float) -> None:
        if plain:
            click.echo(f"Iteration: {number} forward-backward time: {took:.6g} ms.")

    times = time_net(net, iterations=iterations, options=options, say=say)
    for note in times.notes:
        click.echo(f"note: {note}", err=True)
    if as_json:
        print_json(times.as_dict())
    elif as_csv:
        click.echo(times.csv_text(), nl=False)
    else:
        click.echo("\n".join(times.lines()))
