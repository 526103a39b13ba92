"""`caffe-split tpm`: how the kernels moved."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import click

from caffe_split.cli.choosing import calibrate_option
from caffe_split.cli.log_path import LogPath
from caffe_split.cli.options import (
    WINDOW,
    Shown,
    caffe_proto_option,
    engine_option,
    ignore_extra_option,
    names,
    print_json,
    state_options,
    wrong_use,
)
from caffe_split.cli.ranges import FiniteRange, IntRange
from caffe_split.cli.tpm_scores import ScoresAsked
from caffe_split.cli.unread import leave_out
from caffe_split.errors import CaffeSplitError

if TYPE_CHECKING:
    from caffe_split.net.training import Training
    from caffe_split.tpm.given import Source
    from caffe_split.tpm.scores import LayerScores

_FILE = click.Path(path_type=Path, dir_okay=False)


@click.command()
@click.argument("source", nargs=-1, required=True, type=LogPath())
@click.option(
    "--iter",
    "iteration",
    type=IntRange(0),
    help="Snapshot whose TPM layers to read.  [default: the last one, or the first after the last --window]",
)
@click.option(
    "--window",
    "windows",
    type=WINDOW,
    multiple=True,
    help="Window to measure, from TPM layers or else from the series of snapshots; can be repeated.",
)
@click.option(
    "--interval",
    type=IntRange(min=1),
    help="With --window, or of snapshot files: use those that are this many iterations apart.",
)
@click.option("--layers", help="Layers to report, separated by commas.  [default: all except helpers of splits]")
@click.option(
    "--momentum",
    type=FiniteRange(0, 1, max_open=True),
    help="Momentum of the training.  [default: that of its solver, else 0]",
)
@click.option("--kernels", is_flag=True, help="Also print a line per kernel.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
@click.option(
    "--scores",
    "all_scores",
    is_flag=True,
    help="Show TPM beside grad-norm, snip and synflow, and how far their ranks agree.",
)
@click.option(
    "--weights",
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="With --scores: score these weights, in place of a snapshot.",
)
@calibrate_option("With --scores: batches of the net's training data on which the gradients are measured.")
@engine_option
@ignore_extra_option
@click.option("--csv", "csv_file", type=_FILE, metavar="FILE", help="Also write every kernel's numbers as FILE.csv.")
@click.option("--plot", "picture", type=_FILE, metavar="FILE", help="Also draw them as FILE.png, .svg or .pdf.")
@click.option("--force", is_flag=True, help="Let --csv and --plot replace files.")
@state_options("TRAIN")
@caffe_proto_option
@click.option("--suggest-window", is_flag=True, help="SOURCE is a log: say where its loss falls fastest.")
@click.option(
    "--length",
    type=IntRange(min=1),
    metavar="N",
    help="With --suggest-window: iterations of the window.  [default: a tenth of the training, at least 44]",
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
    all_scores: bool,
    weights: Path | None,
    calibrate: int,
    engine: str | None,
    ignore_extra: bool,
    csv_file: Path | None,
    picture: Path | None,
    force: bool,
    shown: Shown,
    caffe_proto: Path | None,
    suggest_window: bool,
    length: int | None,
) -> None:
    """Report TPM, displacement / path, of the kernels of a training: 1 moved straight, near 0 moved to and fro.

    SOURCE is a net or solver, whose TPM layers (see `caffe-split instrument`) or snapshots are read; or snapshots
    themselves, as files, as a pattern or as their prefix; or a training log, for the values that TPM layers printed.

    \b
    Examples:
      caffe-split tpm solver.prototxt --iter 50000 --plot tpm.png
      caffe-split tpm solver.prototxt --window 0:10000 --window 10000:20000
      caffe-split tpm solver.prototxt --iter 50000 --scores
      caffe-split tpm 'snapshots/net_iter_*.caffemodel' --momentum 0.9
      caffe-split tpm train.log
      caffe-split tpm --suggest-window train.log
    """
    from caffe_split.tpm.given import recognise
    from caffe_split.tpm.trust import warnings

    if length is not None and not suggest_window:
        raise click.UsageError("--length belongs to --suggest-window.")
    net_options = ("phase", "stages", "level", "caffe_proto")
    of_kernels = ("kernels", "csv_file", "picture", "interval", "momentum")
    if all_scores:
        leave_out("--scores is a report of its own", *of_kernels, "suggest_window")
    elif suggest_window:
        leave_out("--suggest-window reads a log's loss", *of_kernels, *net_options, "iteration", "windows", "layers")
    if not all_scores:
        leave_out("without --scores no net is run", "weights", "calibrate", "engine", "ignore_extra")
    if csv_file is None and picture is None:
        leave_out("without --csv and --plot no file is written", "force")
    if weights is not None and iteration is not None:
        raise click.UsageError("--iter and --weights: choose one.")
    given = recognise([_log_in(each) if suggest_window else each for each in source])
    if all_scores:
        if given.kind in ("log", "snapshots"):
            raise CaffeSplitError(f"{given.path}: --scores runs the net over its training data; give its solver.")
        asked = ScoresAsked(weights, calibrate, engine, ignore_extra)
        asked.show(shown.open(given.path, caffe_proto), iteration, windows, names(layers), as_json)
        return
    if suggest_window:
        if given.kind != "log":
            raise CaffeSplitError(f"{given.path} is no training log; --suggest-window needs one.")
        _suggest(given.path, length, as_json)
        return
    files = _Files(csv_file, picture, force)
    files.check()
    if given.kind == "log":
        leave_out(
            "a log has no numbers of kernels and of other windows, which need snapshots",
            *("iteration", "windows", "interval", "kernels"),
        )
        leave_out("a log is read without a net", *net_options)
        _show_log(given.path, names(layers), momentum, as_json, files)
        return
    if given.kind == "snapshots":
        if iteration is not None:
            raise click.UsageError(
                "--iter chooses a snapshot of a solver; to choose among snapshot files give that file alone."
            )
        leave_out("snapshots are read without a net", *net_options)
    with wrong_use(), _progress() as progress:
        chosen = _Chosen(windows, names(layers), interval, progress)
        scores, known, snapshots = _measure(given, iteration, chosen, lambda: shown.open(given.path, caffe_proto))
    if momentum is None and known is None:
        click.echo("note: without a solver momentum is taken as 0; give it with --momentum", err=True)
    momentum = momentum if momentum is not None else known or 0.0
    _show_scores(scores, momentum, kernels, as_json, files)
    for line in warnings(scores, momentum, snapshots):
        click.echo(f"warning: {line}", err=True)


class _Chosen(NamedTuple):
    """What is measured: the options that `measure_tpm` and `measure_snapshots` share."""

    windows: tuple[tuple[int, int], ...]
    layers: list[str] | None
    interval: int | None
    progress: Callable[[int, int], None]


def _measure(
    given: Source, iteration: int | None, chosen: _Chosen, opened: Callable[[], Training]
) -> tuple[list[LayerScores], float | None, list[int]]:
    """The scores, the momentum where it is known, and the iterations that have a snapshot."""
    from caffe_split.tpm.collect import measure_snapshots, measure_tpm, momentum_of

    if given.kind == "snapshots":
        return measure_snapshots(given.snapshots, **chosen._asdict()), None, list(given.snapshots)
    training = opened()
    scores = measure_tpm(training, iteration, **chosen._asdict())
    return scores, momentum_of(training), list(training.snapshots())


class _Files(NamedTuple):
    """The files to write besides the report."""

    csv: Path | None
    picture: Path | None
    force: bool

    def check(self) -> None:
        """Refuse before anything is computed."""
        from caffe_split.files import check_ending, check_file

        if self.csv is not None:
            check_ending(self.csv, [".csv"])
            check_file(self.csv, self.force)
        if self.picture is not None:
            from caffe_split.plot.picture_file import check_picture

            check_picture(self.picture, self.force)

    def write(self, csv_text: Callable[[], str], draw: Callable[[Any], None]) -> None:
        from caffe_split.files import write_atomic

        if self.csv is not None:
            write_atomic(self.csv, csv_text().encode(), self.force)
            click.echo(f"wrote {self.csv}", err=True)
        if self.picture is not None:
            from caffe_split.plot.picture_file import write_picture

            write_picture(self.picture, draw, self.force)
            click.echo(f"wrote {self.picture}", err=True)


def _show_scores(scores: list[LayerScores], momentum: float, kernels: bool, as_json: bool, files: _Files) -> None:
    from caffe_split.tpm.report import as_csv, as_dict, comparable, report_lines
    from caffe_split.tpm.scores import in_order

    def draw(figure: Any) -> None:
        from caffe_split.plot.tpm_figure import draw_scores

        draw_scores(figure, in_order(scores), momentum)

    files.write(lambda: as_csv(scores, momentum), draw)
    if as_json:
        print_json([as_dict(score, momentum) for score in scores])
        return
    for line in report_lines(scores, momentum, kernels):
        click.echo(line)
    if not comparable(scores):
        click.echo("note: the windows differ in N or interval; do not compare their TPM with each other", err=True)


def _show_log(path: Path, layers: list[str] | None, momentum: float | None, as_json: bool, files: _Files) -> None:
    from caffe_split.tpm.from_log import choose, printed_as_csv, printed_as_dict, printed_lines, printed_tpm
    from caffe_split.trainlog import read_log

    printed = choose(printed_tpm(read_log(path)), layers, momentum, path)

    def draw(figure: Any) -> None:
        from caffe_split.plot.tpm_figure import draw_printed

        draw_printed(figure, printed)

    files.write(lambda: printed_as_csv(printed), draw)
    if as_json:
        print_json([printed_as_dict(layer) for layer in printed])
        return
    for line in printed_lines(printed):
        click.echo(line)


def _log_in(path: str) -> str:
    """The train.log of a folder, which that folder stands for where a log is asked for; else the path itself."""
    log = Path(path, "train.log")
    return str(log) if log.is_file() else path


def _suggest(path: Path, length: int | None, as_json: bool) -> None:
    from dataclasses import asdict

    from caffe_split.tpm.suggest import suggest_windows, suggestion_lines
    from caffe_split.trainlog import read_log

    found = suggest_windows(read_log(path), length)
    if as_json:
        print_json([asdict(window) for window in found])
        return
    for line in suggestion_lines(found, length is not None):
        click.echo(line)


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
