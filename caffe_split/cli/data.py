"""`caffe-split data`: data sets to LMDB."""

from __future__ import annotations

from pathlib import Path

import click


@click.group()
def data() -> None:
    """Write data sets as the LMDBs that Caffe's Data layer reads.

    \b
    Example: caffe-split data digits --out data
    """


@data.command()
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder to write into.",
)
@click.option(
    "--train",
    type=int,
    default=197,
    show_default=True,
    help="Images in the training set; the rest is the test set.",
)
@click.option("--seed", type=int, default=0, show_default=True, help="Seed of the shuffle.")
def digits(out: Path, train: int, seed: int) -> None:
    """The 1797 handwritten digits (8x8 grey) of scikit-learn, as digits_train_lmdb and digits_test_lmdb.

    \b
    Example: caffe-split data digits --out data
    """
    from caffe_split.data.digits import write_digits

    for path, count in write_digits(out, train, seed).items():
        click.echo(f"{path}: {count} images")
