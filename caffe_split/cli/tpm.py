"""`caffe-split tpm`: how the kernels moved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from caffe_split.cli.options import WINDOW, caffe_proto_option, names, print_json
from caffe_split.errors import CaffeSplitError

if TYPE_CHECKING:
    from caffe_split.tpm.given import Source
    from caffe_split.tpm.scores import LayerScores

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("source", nargs=-1, required=True)
@click.option(
    "--iter",
    "iteration",
    type=int,
    help="Snapshot whose TPM layers to read.  [default: the last one, or the end of the last --window]",
)
@click.option(
    "--window",
    "windows",
    type=WINDOW,
    multiple=True,
    help="Window to measure, from the series of snapshots where no TPM layer did; several times for several.",
)
@click.option("--interval", type=click.IntRange(min=1), help="Use the snapshots that are so many iterations apart.")
@click.option("--layers", help="Layers to report, separated by commas.  [default: all but helpers of splits]")
@click.option("--momentum", type=click.FloatRange(0, 1, max_open=True), help="The solver's, where it cannot be read.")
@click.option("--kernels", is_flag=True, help="A line for each kernel too.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Also write every kernel's numbers as CSV.")
@click.option("--plot", "picture", type=_FILE, metavar="FILE", help="Also draw them: FILE ends in .png, .svg or .pdf.")
@click.option("--force", is_flag=True, help="Let --csv and --plot replace files.")
@caffe_proto_option
@click.option("--suggest-window", is_flag=True, help="Of SOURCE, a log: where the loss falls fastest.")
@click.option(
    "--length",
    type=click.IntRange(min=1),
    metavar="N",
    help="With --suggest-window: iterations of the window.  [default: a tenth of the training]",
)
def tpm(
    source: tuple[str, ...],
    iteration: int | None,
    windows: tuple[tuple[int, int], ...],
    interval: int | None,
    layers: str | None,
    momentum: float | None,
    kernels: bool,
    as_json: bool,
    csv_file: Path | None,
    picture: Path | None,
    force: bool,
    caffe_proto: Path | None,
    suggest_window: bool,
    length: int | None,
) -> None:
    """Report TPM, displacement / path, of the kernels of a training: 1 moved straight, low wandered.

    SOURCE is a net or solver, whose TPM layers (see `caffe-split instrument`) or snapshots are read; snapshots
    themselves, as files, as a pattern or as their prefix; or a training log: then what the TPM layers printed.

    \b
    Examples:
      caffe-split tpm solver.prototxt --iter 50000 --plot tpm.png
      caffe-split tpm solver.prototxt --window 0:10000 --window 10000:20000
      caffe-split tpm 'snapshots/net_iter_*.caffemodel' --momentum 0.9
      caffe-split tpm train.log
      caffe-split tpm --suggest-window train.log
    """
    from caffe_split.tpm.given import tell

    if length is not None and not suggest_window:
        raise click.UsageError("--length belongs to --suggest-window.")
    found = tell(source)
    if suggest_window:
        if found.kind != "log":
            raise CaffeSplitError(f"{found.path} is no training log; --suggest-window needs one.")
        _suggest(found.path, length, as_json)
        return
    _check_outputs(csv_file, picture, force)
    if found.kind == "log":
        unfit = {"--iter": iteration, "--window": windows, "--interval": interval, "--kernels": kernels}
        given = [option for option, value in unfit.items() if value]
        if given:
            raise click.UsageError(f"a log tells no kernels and no other windows: {', '.join(given)} need snapshots.")
        _show_log(found.path, names(layers), momentum, as_json, csv_file, picture, force)
        return
    with _progress() as progress:
        scores, known = _scores(found, iteration, windows, names(layers), progress, interval, caffe_proto)
    if momentum is None:
        momentum = known
    if momentum is None:
        momentum = 0.0
        click.echo("note: without a solver momentum is taken as 0; give it with --momentum", err=True)
    _write(scores, momentum, csv_file, picture, force)
    _show(scores, momentum, kernels, as_json)


def _scores(
    source: Source,
    iteration: int | None,
    windows: tuple[tuple[int, int], ...],
    layers: list[str] | None,
    progress: Callable[[int, int], None],
    interval: int | None,
    caffe_proto: Path | None,
) -> tuple[list[LayerScores], float | None]:
    """The scores, and the momentum where it is known."""
    from caffe_split.net.training import open_training
    from caffe_split.tpm.collect import gather, gather_series, momentum_of

    if source.kind == "snapshots":
        if iteration is not None:
            raise click.UsageError("--iter chooses a solver's snapshot; of snapshots themselves give the one.")
        return gather_series(source.snapshots, windows, layers, progress, interval), None
    training = open_training(source.path, caffe_proto=caffe_proto)
    if iteration is None:
        known = training.snapshots()
        if not known:
            raise CaffeSplitError(
                f"{source.path}: no snapshots at {training.prefix}_iter_*.caffemodel. Train it first."
                if training.prefix
                else f"{source.path}: no solver beside it names this net, so there is no telling where its "
                "snapshots are. Give the solver, or the snapshots themselves."
            )
        iteration = max((stop for _, stop in windows), default=max(known))
    scores = gather(training, iteration, windows, layers, progress, interval)
    return scores, momentum_of(training) if training.solver is not None else None


def _show(scores: list[LayerScores], momentum: float, kernels: bool, as_json: bool) -> None:
    from caffe_split.tpm.collect import by_window, latest_window
    from caffe_split.tpm.report import as_dict, comparable, entropy_lines, header_line, kernel_lines, window_lines

    if as_json:
        print_json([as_dict(score, momentum) for score in scores])
        return
    last = latest_window(scores)
    for group in by_window(scores):
        click.echo(header_line(group, momentum))
    for line in [*entropy_lines(last), "", *window_lines(scores)]:
        click.echo(line)
    if kernels:
        for line in ["", *kernel_lines(last, momentum)]:
            click.echo(line)
    if not comparable(scores):
        click.echo("note: the windows differ in N or interval; do not compare their TPM with each other", err=True)


def _write(
    scores: list[LayerScores], momentum: float, csv_file: Path | None, picture: Path | None, force: bool
) -> None:
    from caffe_split.files import write_atomic
    from caffe_split.tpm.collect import by_window, latest_window
    from caffe_split.tpm.report import as_csv

    if csv_file is not None:
        write_atomic(csv_file, as_csv(scores, momentum).encode())
        click.echo(f"wrote {csv_file}", err=True)
    if picture is not None:
        from caffe_split.plot.tpm_figure import draw_scores, write_picture

        last = latest_window(scores)
        windows = [group for group in by_window(scores) if group != last]
        write_picture(picture, lambda figure: draw_scores(figure, [*windows, last], momentum), force)
        click.echo(f"wrote {picture}", err=True)


def _show_log(
    path: Path,
    layers: list[str] | None,
    momentum: float | None,
    as_json: bool,
    csv_file: Path | None,
    picture: Path | None,
    force: bool,
) -> None:
    from caffe_split.files import write_atomic
    from caffe_split.tpm.from_log import choose, printed_as_csv, printed_as_dict, printed_lines, printed_tpm
    from caffe_split.trainlog import read

    printed = choose(printed_tpm(read(path)), layers, momentum, path)
    if csv_file is not None:
        write_atomic(csv_file, printed_as_csv(printed).encode())
        click.echo(f"wrote {csv_file}", err=True)
    if picture is not None:
        from caffe_split.plot.tpm_figure import draw_printed, write_picture

        write_picture(picture, lambda figure: draw_printed(figure, printed), force)
        click.echo(f"wrote {picture}", err=True)
    if as_json:
        print_json([printed_as_dict(layer) for layer in printed])
        return
    for line in printed_lines(printed):
        click.echo(line)


def _suggest(path: Path, length: int | None, as_json: bool) -> None:
    from dataclasses import asdict

    from caffe_split.tpm.suggest import suggest_windows
    from caffe_split.trainlog import read

    found = suggest_windows(read(path), length)
    if as_json:
        print_json([asdict(window) for window in found])
        return
    for place, window in enumerate(found):
        rank = "the loss falls fastest" if place == 0 else "then"
        size = window.stop - window.start
        click.echo(f"{window.start}:{window.stop}  {rank}: by {window.fall:.4g} in {size} iterations")
    best = found[0]
    click.echo(f"caffe-split instrument NET --window {best.start}:{best.stop} --interval {best.interval}")


def _check_outputs(csv_file: Path | None, picture: Path | None, force: bool) -> None:
    """Refuse before anything is computed."""
    if csv_file is not None and csv_file.exists() and not force:
        raise CaffeSplitError(
            f"{csv_file} exists; nothing is overwritten unasked. Choose another name, or add --force."
        )
    if picture is not None:
        from caffe_split.plot.tpm_figure import check_picture

        check_picture(picture, force)


@contextmanager
def _progress() -> Iterator[Callable[[int, int], None]]:
    """A bar on a terminal while snapshots are read; nothing elsewhere, and nothing for a few of them."""
    bars: list[Any] = []

    def show(done: int, total: int) -> None:
        if not sys.stderr.isatty() or total < 5:
            return
        if not bars or done == 1:
            bars.append(click.progressbar(length=total, label="snapshots", file=sys.stderr))
            bars[-1].__enter__()
        bars[-1].update(1)
        if done == total:
            bars.pop().__exit__(None, None, None)

    try:
        yield show
    finally:
        for bar in bars:
            bar.__exit__(None, None, None)
