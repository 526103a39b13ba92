"""`caffe-split draw`, `kernels`: pictures of nets and of their kernels."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.option("--out", required=True, type=click.Path(path_type=Path), help="The picture: FILE.png, .svg or .pdf.")
@click.option("--phase", type=click.Choice(["TRAIN", "TEST"]), default="TRAIN", show_default=True)
@click.option(
    "--split/--whole",
    "around_splits",
    default=None,
    help="Draw stretches without a split as one box each, or every layer.  [default: --split where one is split]",
)
@click.option("--title", default="", help="Title of the picture.  [default: the net's name]")
@click.option("--aspect", type=click.FloatRange(0.1, 10), default=1.3, show_default=True, help="Wanted width / height.")
@click.option("--force", is_flag=True, help="Replace FILE if it exists.")
def draw(net: Path, out: Path, phase: str, around_splits: bool | None, title: str, aspect: float, force: bool) -> None:
    """Draw NET, a net or the solver that names it: data flows downwards, columns from left to right.

    Fast, slow, added and frozen parts of splits are told apart by colour and by a label. In-place layers, and
    activations and normalisations that alone read a blob, stand in their layer's box.

    \b
    Example: caffe-split draw derived1/train_val.prototxt --out derived1.svg
    """
    from caffe_split.files import check_out
    from caffe_split.plot.draw import draw_file, picture_format
    from caffe_split.training import open_training

    picture_format(out)
    check_out(out, force)
    document = open_training(net).net
    draw_file(document, out, phase, None if around_splits is None else not around_splits, title, aspect)
    click.echo(f"wrote {out}")
