"""`caffe-split summary`: the layers of a net and their cost, alone or beside another net."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.cli.options import Shown, caffe_proto_option, print_json, shape_option, state_options
from caffe_split.cli.unread import leave_out


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("other", required=False, type=click.Path(path_type=Path))
@state_options("TRAIN")
@shape_option("an input whose data set is not there")
@caffe_proto_option
@click.option("--changes", is_flag=True, help="List only the layers that differ between NET and OTHER.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "as_csv", is_flag=True, help="Print CSV, one line per layer.")
def summary(
    net: Path,
    other: Path | None,
    shown: Shown,
    inputs: tuple[tuple[str, tuple[int, ...]], ...],
    caffe_proto: Path | None,
    changes: bool,
    as_json: bool,
    as_csv: bool,
) -> None:
    """List the layers of NET with output shapes, parameters and multiply-adds per image; with OTHER, side by side.

    NET is a net, or the solver that names it. No weights are needed: a Data layer's shape comes from the first
    record of its LMDB, or from --input. BatchNorm statistics and TPM state do not count as parameters; parameters
    shared by name count once.

    \b
    Example: caffe-split summary baseline.prototxt derived1/baseline.prototxt
    """
    from caffe_split.layertypes import summary_text as text
    from caffe_split.layertypes.summary import summarize

    if as_json and as_csv:
        raise click.UsageError("--json and --csv exclude each other.")
    if changes and other is None:
        raise click.UsageError("--changes needs two nets.")
    if changes:
        leave_out("--changes shortens the table; JSON and CSV have every layer", "as_json", "as_csv")
    trainings = [shown.open_in_phase(path, caffe_proto) for path in (net, other) if path is not None]
    nets = [summarize(training, inputs=dict(inputs)) for training in trainings]
    if as_json:
        print_json(text.as_dict(nets[0]) if other is None else text.pair_dict(nets[0], nets[1]))
    elif as_csv:
        click.echo(text.csv_text(nets[0]) if other is None else text.pair_csv(nets[0], nets[1]), nl=False)
    else:
        for line in text.table_lines(nets[0]) if other is None else text.pair_lines(nets[0], nets[1], changes):
            click.echo(line)
