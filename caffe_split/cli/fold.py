"""`caffe-split fold`: linear branches back into one convolution each."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.cli.options import (
    Shown,
    caffe_proto_option,
    end_dry_run,
    engine_option,
    ignore_extra_option,
    names,
    print_json,
    state_options,
)
from caffe_split.cli.ranges import FiniteRange, IntRange
from caffe_split.cli.unread import leave_out


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("weights", type=click.Path(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("folded"),
    show_default=True,
    help="New folder for the result.",
)
@click.option("--deploy", type=click.Path(path_type=Path), help="A deploy net to fold in the same way.")
@click.option(
    "--fold-batch-norm",
    is_flag=True,
    help="Merge BatchNorm and Scale into the convolutions before them; only for nets that are not trained.",
)
@click.option(
    "--ungroup",
    is_flag=True,
    help="Let a convolution lose its groups where its split has learnt to mix them.",
)
@click.option("--layers", help="Fold only the splits of these layers, separated by commas, and those inside them.")
@click.option(
    "--smaller-than",
    type=FiniteRange(min=0, min_open=True),
    help="Fold only branches whose kernel is shorter than this share of its slow half's.",
)
@ignore_extra_option
@state_options("TEST")
@click.option("--verify/--no-verify", "check", default=True, help="Compare with the unfolded net.  [default: verify]")
@click.option("--batches", type=IntRange(min=1), default=1, show_default=True, help="Batches to compare.")
@click.option(
    "--tolerance",
    type=FiniteRange(min=0),
    default=1e-4,
    show_default=True,
    help="Largest relative difference of a blob.",
)
@engine_option
@caffe_proto_option
@click.option("--force", is_flag=True, help="Replace the folder --out.")
@click.option("--dry-run", is_flag=True, help="Print what would be folded and write nothing.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def fold(
    net: Path,
    weights: Path,
    out: Path,
    deploy: Path | None,
    fold_batch_norm: bool,
    ungroup: bool,
    layers: str | None,
    smaller_than: float | None,
    ignore_extra: bool,
    shown: Shown,
    check: bool,
    batches: int,
    tolerance: float,
    engine: str | None,
    caffe_proto: Path | None,
    force: bool,
    dry_run: bool,
    as_json: bool,
) -> None:
    """Merge every linear branch of the derived NET (or the solver of it) with its WEIGHTS back into one convolution.

    split1, split2, reorder and what was added beside or behind them (skip, extension, conv1x1, acnet, dbb, identity,
    residual without an activation) become the layer that they were split from, and so do BatchNorm and Scale inside a
    branch; splits of several rounds are folded one after another. Splits that cannot be folded stay, and are listed
    with the reason. --layers and --smaller-than fold a part, so that a next round starts from fewer branches. The
    folder --out gets the net under its own name, folded.caffemodel and manifest.json, after the folded net gave the
    same outputs as the unfolded one.

    \b
    Examples:
      caffe-split fold derived1/train_val.prototxt derived1/net_iter_64000.caffemodel --out folded1
      caffe-split fold derived1/deploy.prototxt derived1/net_iter_64000.caffemodel --fold-batch-norm
      caffe-split fold derived1/train_val.prototxt derived1/net_iter_64000.caffemodel --smaller-than 0.1 --out cut1
    """
    from caffe_split.backends.check_weights import FOLDED_WEIGHTS_NAME
    from caffe_split.backends.verify import VerifyOptions
    from caffe_split.files import check_out
    from caffe_split.folding import make

    if not check:
        leave_out("--no-verify compares nothing", "batches", "tolerance", "engine")
    if not dry_run:
        check_out(out, force)
    options = make.FoldOptions(
        deploy, fold_batch_norm, ungroup, names(layers), smaller_than, caffe_proto, ignore_extra, shown.asked()
    )
    plan = make.fold(net, weights, out=out, options=options)
    comparison = VerifyOptions(batches, tolerance=tolerance, engine=engine) if check else None
    results = [] if dry_run else plan.write(force=force, check=comparison)
    if as_json:
        print_json({**plan.as_dict(), "largest_difference": [result.worst for result in results]})
        return
    click.echo(plan)
    if dry_run:
        end_dry_run(check_out, out, force)
        return
    for result in results:
        click.echo(result.verdict())
    click.echo("wrote " + ", ".join(str(out / name) for name in (*plan.texts, FOLDED_WEIGHTS_NAME)))
