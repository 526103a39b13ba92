"""`caffe-split test`: the scores of a net on its test set, and the classes of single images."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffe_split.cli.images import IMAGE_OPTIONS, NO_IMAGES, image_options, preprocessing
from caffe_split.cli.options import (
    Shown,
    caffe_proto_option,
    device_option,
    engine_option,
    ignore_extra_option,
    print_json,
    state_options,
    threads_option,
)
from caffe_split.cli.ranges import IntRange
from caffe_split.cli.unread import leave_out

if TYPE_CHECKING:
    from caffe_split.inference.counts import Counts
    from caffe_split.inference.given import RunOptions
    from caffe_split.inference.scores import NetScores


@click.command()
@click.argument("net", type=click.Path(path_type=Path))
@click.argument("weights", type=click.Path(path_type=Path), nargs=-1, required=True)
@click.option(
    "--iterations",
    type=IntRange(1),
    metavar="N",
    help="Batches to run.  [default: one pass over the data set; 50, as in Caffe, where its size is not known]",
)
@click.option(
    "--top", type=IntRange(1), multiple=True, metavar="K", help="Also the share of labels among the K highest."
)
@click.option(
    "--confusion",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Labels against predicted classes: FILE.csv, .png, .svg or .pdf; can be repeated.",
)
@click.option(
    "--head",
    metavar="LAYER",
    help="The layer whose bottoms are scores and labels.  [default: the last Accuracy, else the last loss]",
)
@click.option("--labels", type=click.Path(path_type=Path), metavar="FILE", help="Names of the classes, one per line.")
@click.option(
    "--image",
    "images",
    type=click.Path(path_type=Path),
    multiple=True,
    metavar="FILE",
    help="Print the five classes that the deploy net NET gives this image; can be repeated.",
)
@image_options
@state_options("TEST")
@engine_option
@device_option
@threads_option
@ignore_extra_option
@caffe_proto_option
@click.option("--force", is_flag=True, help="Replace the FILE of --confusion if it exists.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def test(
    net: Path,
    weights: tuple[Path, ...],
    iterations: int | None,
    top: tuple[int, ...],
    confusion: tuple[Path, ...],
    head: str | None,
    labels: Path | None,
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
    force: bool,
    as_json: bool,
) -> None:
    """Run NET on its test set with WEIGHTS, and print its outputs as `caffe test` does; of several weights a table.

    NET is a net, or the solver that names it. With --image it is a deploy net; each image is resized to its input, and
    the classes are printed as Caffe's classification example prints them.

    \b
    Examples:
      caffe-split test train_val.prototxt net_iter_5000.caffemodel --top 5 --confusion confusion.png
      caffe-split test train_val.prototxt net_iter_*.caffemodel
      caffe-split test deploy.prototxt net.caffemodel --image cat.jpg --mean 104,117,123 --labels names.txt
      caffe-split test deploy.prototxt net.caffemodel --image cat.jpg --transform-of train_val.prototxt
    """
    from caffe_split.inference.given import RunOptions

    if not confusion:
        leave_out("without --confusion no file is written", "force")
    options = RunOptions(engine, shown.asked(), device, threads, ignore_extra, caffe_proto)
    if images:
        if len(weights) > 1:
            raise click.UsageError("--image takes one WEIGHTS.")
        if iterations is not None or top or confusion or head is not None:
            raise click.UsageError("--iterations, --top, --confusion and --head are for a test set, not for --image.")
        from caffe_split.inference.classify import classify

        how = preprocessing(mean, scale, rgb, transform_of)
        found = classify(net, weights[0], images, labels=labels, preprocessing=how, options=options)
        _say_notes(found[0].notes)
        if as_json:
            print_json([each.as_dict() for each in found])
        else:
            for each in found:
                click.echo("\n".join(each.lines()))
        return
    if (mean, scale, rgb, transform_of) != NO_IMAGES:
        raise click.UsageError(f"{IMAGE_OPTIONS} are for --image; a data layer has its own transform_param.")
    if labels is not None and not confusion:
        raise click.UsageError("--labels is for --confusion or --image.")
    if len(weights) > 1 and confusion:
        raise click.UsageError("--confusion takes one WEIGHTS.")
    if len({path.resolve() for path in confusion}) < len(confusion):
        raise click.UsageError("--confusion names a file twice.")
    asked = {"iterations": iterations, "top": top, "confusion": bool(confusion), "head": head, "labels": labels}
    writers = [_confusion_writer(path, force) for path in confusion]
    results = _scores(net, weights, options, quiet=as_json or len(weights) > 1, **asked)
    if as_json:
        print_json([each.as_dict() for each in results])
    elif len(results) == 1:
        click.echo("\n".join(results[0].lines()))
    else:
        from caffe_split.inference.scores import table

        click.echo("\n".join(table(results)))
    for path, write in zip(confusion, writers):
        assert results[0].counts is not None
        write(results[0].counts)
        click.echo(f"wrote {path}", err=True)


def _scores(net: Path, weights: tuple[Path, ...], options: RunOptions, *, quiet: bool, **asked: Any) -> list[NetScores]:
    """The scores of each weights; all of them are checked before any is run."""
    from caffe_split.inference.given import check_net, open_net
    from caffe_split.inference.scores import score_net

    if len(weights) > 1:
        given = open_net(net, options)
        for path in weights:
            check_net(given, path, options)
    results: list[NetScores] = []
    for number, path in enumerate(weights, 1):
        if len(weights) > 1:
            click.echo(f"{path} ({number} of {len(weights)})", err=True)
        found = score_net(net, path, options=options, say=_nothing if quiet else click.echo, **asked)
        if not results:
            _say_notes(found.notes)
        results.append(found)
    return results


def _say_notes(notes: tuple[str, ...]) -> None:
    for note in notes:
        click.echo(f"note: {note}", err=True)


def _nothing(_line: str) -> None:
    return


def _confusion_writer(path: Path, force: bool) -> Callable[[Counts], None]:
    """What writes the matrix; checked before anything runs."""
    from caffe_split.files import check_ending, check_file, write_atomic
    from caffe_split.plot.picture_file import FORMATS, check_picture

    if check_ending(path, (".csv", *FORMATS)) == ".csv":
        check_file(path, force)
        return lambda counts: write_atomic(path, counts.csv_text().encode(), force)
    from caffe_split.plot.confusion import confusion_file

    check_picture(path, force)
    return lambda counts: confusion_file(counts.matrix, counts.names, path, force=force)
