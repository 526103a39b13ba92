"""`caffe-split draw`, `kernels`: pictures of nets and of their kernels."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.cli.options import Shown, caffe_proto_option, names, state_options
from caffe_split.cli.ranges import FiniteRange


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The picture: FILE.png, .svg or .pdf.")
@state_options("TRAIN")
@click.option(
    "--split/--whole",
    "around_splits",
    default=None,
    help="Draw stretches without a split as one box each, or every layer.  [default: --split where a layer is "
    "split; else the same block several times in a row is drawn once]",
)
@click.option("--title", default="", help="Title of the picture.  [default: the net's name]")
@click.option(
    "--aspect", type=FiniteRange(0.1, 10), default=1.3, show_default=True, help="Wanted ratio of width to height."
)
@caffe_proto_option
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def draw(
    net: Path,
    out: Path,
    shown: Shown,
    around_splits: bool | None,
    title: str,
    aspect: float,
    caffe_proto: Path | None,
    force: bool,
) -> None:
    """Draw NET, a net or the solver that names it: data flows downwards, columns from left to right.

    Fast, slow, added and frozen parts of splits have their own colours and labels. In-place layers stand in their
    layer's box, and so does an activation or normalisation that is the only reader of a blob.

    \b
    Example: caffe-split draw derived1/train_val.prototxt --out derived1.svg
    """
    from caffe_split.net.bottoms import lacking_bottoms
    from caffe_split.plot.draw import draw_file
    from caffe_split.plot.picture_file import check_picture

    check_picture(out, force)
    training = shown.open_in_phase(net, caffe_proto)
    whole = None if around_splits is None else not around_splits
    draw_file(training.net, out, training.state, whole, title, aspect, force=force)
    for each in lacking_bottoms(training.net, training.train_layers()):
        click.echo(f"note: {net}:{each.layer.field.line}: layer '{each.layer.name}': {each.text}", err=True)
    click.echo(f"wrote {out}")


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--layer", "layers", multiple=True, required=True, metavar="NAME[,NAME]", help="The layers to draw.")
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The picture: FILE.png, .svg or .pdf.")
@click.option(
    "--channels",
    type=click.Choice(["auto", "all", "norm"]),
    default="auto",
    show_default=True,
    help="A tile for every channel of a kernel, or one with the norm over its channels. auto: 3 channels as "
    "colours, else all up to 1024 tiles.",
)
@click.option("--bgr", is_flag=True, help="Three channels are blue, green, red, as ImageNet's nets have them.")
@state_options("TRAIN")
@caffe_proto_option
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def kernels(
    net: Path,
    weights: Path,
    layers: tuple[str, ...],
    out: Path,
    channels: str,
    bgr: bool,
    shown: Shown,
    caffe_proto: Path | None,
    force: bool,
) -> None:
    """Draw the kernels of a layer of NET from WEIGHTS, several layers side by side on one scale, symmetric to 0.

    A layer that was split gives its fast half, its slow half and the slow half's residual_pre; a slow half gives
    itself and its residual_pre. 1x1 kernels, such as those of a reorder, are drawn as a matrix.

    \b
    Example: caffe-split kernels derived1/train_val.prototxt derived1/init.caffemodel --layer conv1 --out conv1.png
    """
    from caffe_split.net.layers import all_layers
    from caffe_split.plot.kernels import kernels_file, mosaics
    from caffe_split.plot.picture_file import check_picture
    from caffe_split.split.recognise import layer_roles

    check_picture(out, force)
    training = shown.open_in_phase(net, caffe_proto)
    roles = layer_roles(all_layers(training.net))
    chosen = [name for each in layers for name in names(each) or ()]
    kernels_file(mosaics(training.net, weights, chosen, channels, training.state), roles, out, bgr, force=force)
    click.echo(f"wrote {out}")
