"""`caffe-split export`: a net as an ONNX model."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.cli.options import caffe_proto_option, end_dry_run, engine_option, names, print_json, shape_option
from caffe_split.cli.ranges import LEVEL, SEED, FiniteRange, IntRange
from caffe_split.cli.unread import leave_out


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), help="The model: FILE.onnx.  [default: NET with .onnx]")
@click.option(
    "--opset", type=IntRange(1), default=17, show_default=True, help="Version of ONNX's operators, 13 or later."
)
@click.option("--dynamic", help="What may vary, separated by commas: batch, height, width.")
@shape_option("an input, in place of the one in NET")
@click.option("--blobs", help="Further outputs, separated by commas: any blobs of the net.")
@click.option("--fold-batch-norm", is_flag=True, help="Merge BatchNorm and Scale into the convolutions before them.")
@click.option("--half", is_flag=True, help="Compute in half precision; inputs and outputs stay float32.")
@click.option("--with-transform", is_flag=True, help="Make mean and scale of the data layer part of the model.")
@click.option(
    "--transform-of",
    type=click.Path(path_type=Path),
    metavar="TRAIN_VAL",
    help="For a deploy net: make mean and scale of this net's data layer part of the model.",
)
@click.option(
    "--check",
    "count",
    type=IntRange(min=0),
    default=1,
    show_default=True,
    help="Random inputs on which the model is compared with the net; 0: it is written unchecked.",
)
@click.option(
    "--tolerance",
    type=FiniteRange(min=0),
    help="Largest relative difference of an output.  [default: 1e-4; with --half 1e-2]",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the random inputs.")
@click.option("--safetensors", is_flag=True, help="Also write the weights as a safetensors file.")
@click.option("--stage", "stages", multiple=True, help="A stage in which the net is built; can be repeated.")
@click.option("--level", type=LEVEL, default=0, show_default=True, help="Level in which the net is built.")
@engine_option
@caffe_proto_option
@click.option("--force", is_flag=True, help="Replace files that are there.")
@click.option("--dry-run", is_flag=True, help="Print what would be in the model and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def export(
    net: Path,
    weights: Path,
    out: Path | None,
    opset: int,
    dynamic: str | None,
    inputs: tuple[tuple[str, tuple[int, ...]], ...],
    blobs: str | None,
    fold_batch_norm: bool,
    half: bool,
    with_transform: bool,
    transform_of: Path | None,
    count: int,
    tolerance: float | None,
    seed: int,
    safetensors: bool,
    stages: tuple[str, ...],
    level: int,
    engine: str | None,
    caffe_proto: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Write NET with its WEIGHTS as an ONNX model that computes what Caffe computes, and check that it does.

    The net is taken in its TEST phase. Data layers become inputs; losses and accuracies are left out, and the
    scores that they read are outputs. Blobs keep their names, operators are called as their layers, and weights
    layer.weight and layer.bias. Layers that ONNX's operators do not compute as Caffe does are listed with their lines,
    all at once, and nothing is written.

    Before the model takes its name, onnxruntime runs it on random inputs, and its outputs are compared with those of
    the built Caffe (or the torch engine); where they differ, nothing is written and the exit status is 1.

    \b
    Examples:
      caffe-split export deploy.prototxt net_iter_64000.caffemodel --out net.onnx
      caffe-split export deploy.prototxt net_iter_64000.caffemodel --dynamic batch,height,width --check 3
      caffe-split export deploy.prototxt net_iter_64000.caffemodel --transform-of train_val.prototxt --out net.onnx
      caffe-split export train_val.prototxt net_iter_64000.caffemodel --with-transform --fold-batch-norm --half
    """
    from caffe_split.exporting.make import export as work_out
    from caffe_split.exporting.options import CheckOptions, ExportOptions
    from caffe_split.files import check_ending, check_file
    from caffe_split.net.state import NetState

    if not count:
        leave_out("--check 0 compares nothing", "tolerance", "seed", "engine")
    out = out if out is not None else net.with_suffix(".onnx")
    check_ending(out, [".onnx"])
    if not dry_run:
        check_file(out, force)
    options = ExportOptions(
        opset,
        tuple(dict.fromkeys(names(dynamic) or [])),
        fold_batch_norm,
        half,
        with_transform,
        transform_of,
        tuple(names(blobs) or []),
        dict(inputs),
        NetState("TEST", stages, level),
        caffe_proto,
    )
    plan = work_out(net, weights, out=out, options=options)
    check = CheckOptions(count, engine, tolerance, seed)
    found = [] if dry_run else plan.write(force, check, with_safetensors=safetensors)
    if as_json:
        print_json({**plan.as_dict(), "check": found})
        return
    click.echo(plan)
    if dry_run:
        end_dry_run(check_file, out, force)
        return
    for line in found:
        click.echo(line)
    click.echo(f"wrote {out}" + (f" and {out.with_suffix('.safetensors')}" if safetensors else ""))
