"""`caffe-split extract`: blobs of a net for each record of its data, or for images."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import click

from caffe_split.cli.images import IMAGE_OPTIONS, NO_IMAGES, image_options, preprocessing
from caffe_split.cli.options import (
    Shown,
    caffe_proto_option,
    device_option,
    engine_option,
    ignore_extra_option,
    names,
    state_options,
    threads_option,
    wrong_use,
)
from caffe_split.cli.ranges import IntRange


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("weights", type=click.Path(path_type=Path))
@click.option("--blob", "blobs", multiple=True, required=True, metavar="NAME[,NAME]", help="The blobs to write.")
@click.option("--out", required=True, type=click.Path(path_type=Path), metavar="DIR", help="The new folder.")
@click.option(
    "--format",
    "form",
    type=click.Choice(["npy", "hdf5", "lmdb"]),
    default="npy",
    show_default=True,
    help="npy: a BLOB.npy per blob; hdf5: one features.h5; lmdb: a BLOB_lmdb per blob, with float_data.",
)
@click.option(
    "--iterations", type=IntRange(1), metavar="N", help="Batches to run.  [default: one pass over the data set]"
)
@click.option(
    "--images",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE|FOLDER",
    help="Instead of data layers: images for the deploy net NET; can be repeated.",
)
@image_options
@state_options("TEST")
@engine_option
@device_option
@threads_option
@ignore_extra_option
@caffe_proto_option
def extract(
    net: Path,
    weights: Path,
    blobs: tuple[str, ...],
    out: Path,
    form: str,
    iterations: int | None,
    images: tuple[Path, ...],
    mean: str | None,
    scale: float | None,
    rgb: bool,
    transform_of: Path | None,
    shown: Shown,
    engine: str | None,
    device: str,
    threads: int | None,
    ignore_extra: bool,
    caffe_proto: Path | None,
) -> None:
    """Write blobs of NET with WEIGHTS into a new folder, a row per record of its data set, or per image.

    Until all rows are there they are in DIR.unfinished: after an interruption the same command goes on.

    \b
    Examples:
      caffe-split extract train_val.prototxt net.caffemodel --blob ip1,label --out features
      caffe-split extract deploy.prototxt net.caffemodel --images photos --mean 104,117,123 --blob fc7 --out features
    """
    from caffe_split.inference.extract import extract as run
    from caffe_split.inference.given import RunOptions

    if not images and (mean, scale, rgb, transform_of) != NO_IMAGES:
        raise click.UsageError(f"{IMAGE_OPTIONS} are for --images; a data layer has its own transform_param.")
    progress = _Progress()
    try:
        with wrong_use():
            done = run(
                net,
                weights,
                [name for each in blobs for name in names(each) or ()],
                out,
                form=form,
                iterations=iterations,
                images=images,
                preprocessing=preprocessing(mean, scale, rgb, transform_of),
                options=RunOptions(engine, shown.asked(), device, threads, ignore_extra, caffe_proto),
                say=progress.show,
            )
    except KeyboardInterrupt:
        click.echo(f"\nstopped; the same command goes on from {out}.unfinished", err=True)
        raise
    finally:
        progress.close()
    for note in done.notes:
        click.echo(f"note: {note}", err=True)
    click.echo(f"wrote {done.rows} rows into {done.out}: {', '.join(done.files)}")


class _Progress:
    """Rows that are done, on standard error: in one line of a terminal, else a line every 10 seconds."""

    def __init__(self) -> None:
        self._terminal = sys.stderr.isatty()
        self._last = 0.0
        self._open = False

    def show(self, done: int, rows: int) -> None:
        """Say how many rows there are, unless that was said a moment ago."""
        now = time.monotonic()
        if done < rows and now - self._last < (0.2 if self._terminal else 10.0):
            return
        self._last, self._open = now, self._terminal
        click.echo(f"{chr(13) if self._terminal else ''}{done} of {rows} rows", err=True, nl=not self._terminal)

    def close(self) -> None:
        """End the line."""
        if self._open:
            click.echo(err=True)
