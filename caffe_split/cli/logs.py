"""The commands `best` and `final`."""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import TYPE_CHECKING

import click

from caffe_split import jsontext
from caffe_split.cli.log_options import ALL, LOGS, found_in, log_at, net_option, rank_option, say
from caffe_split.cli.ranges import IntRange
from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog import pipeline, show
from caffe_split.trainlog.outputs import Value, is_score
from caffe_split.trainlog.snapshots import nearest_snapshot
from caffe_split.trainlog.text import open_log

if TYPE_CHECKING:
    from caffe_split.trainlog.model import TrainingLog

# What needs NumPy (`read`, `query`) is imported inside the functions: the pipelines' lines are found without it.


def _each(logs: list[str], show_one: Callable[[str], None]) -> int:
    """Call `show_one` for every log; a log that cannot be read is named and the others still come."""
    status = 0
    for path in logs:
        try:
            open_log(path)
            if len(logs) > 1:
                say(f"==> {path} <==")
            show_one(path)
        except CaffeSplitError as error:
            say(f"caffe-split: {error}")
            status = 1
    return status


def _say_of(log: TrainingLog, values: list[Value], output: str | None = None, net: int | None = None) -> None:
    """Say of which test nets the values are, and if the loss was not finite."""
    from caffe_split.trainlog import query

    for note in (query.nets_note(values), query.trust_note(log, output, net)):
        if note:
            say(f"note: {log.path}: {note}")


def _show_lines(path: str, lines: list[pipeline.Found], rank: int | None) -> None:
    """Print lines as they stand, and say if the loss was not finite."""
    for found in lines:
        _write(found.text)
    if pipeline.may_not_be_finite(path, lines):
        from caffe_split.trainlog.read import read_log

        _say_of(read_log(path, rank), [])


def _write(line: bytes) -> None:
    sys.stdout.buffer.write(line + b"\n")


@click.command()
@LOGS
@click.option(
    "--output", metavar="NAME", help="Only this test output, ordered by value (a loss is best where it is lowest)."
)
@click.option("-n", "count", default=3, show_default=True, type=IntRange(1), help="Number of lines.")
@click.option("--value", is_flag=True, help="Print only the numbers.")
@click.option("--snapshot", is_flag=True, help="Also the iteration and the nearest snapshot of weights.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with iteration, line and snapshot.")
@net_option(ALL)
@rank_option
def best(
    logs: tuple[str, ...],
    output: str | None,
    count: int,
    value: bool,
    snapshot: bool,
    as_json: bool,
    net: int | None,
    rank: int | None,
) -> int:
    """The lines of the best test accuracy in each LOG, or each log of a training in a folder, the best last.

    They are the lines, in the order, of

    \b
      grep Test LOG | grep -i acc | sort -nk 11 | tail -3

    run over each log in the C locale (LC_ALL=C): field 11 as a plain number, ties by the whole line.
    Notes and the logs' names go to stderr.

    \b
    Examples:
      caffe-split best baseline/train.log derived1/train.log
      caffe-split best train.log --output loss3/top-1 --snapshot
    """
    records: list[dict[str, object]] = []

    def one(path: str) -> None:
        if output is None and net is None and not (value or snapshot or as_json):
            lines = pipeline.best_lines(path, count, rank, say)
            if lines:
                _show_lines(path, lines, rank)
                if pipeline.misleading(lines):
                    say(_misleading(path))
                losses = pipeline.losses_in(lines)
                if losses:
                    say(
                        f"note: in {path} {', '.join(losses)} is a loss, whose highest value is last above; "
                        "--output NAME, also of the accuracy, orders by value"
                    )
                return
        from caffe_split.trainlog import query

        log = log_at(path, rank)
        values = log.values(output, net)  # or says what there is
        by_value = output is not None or all(is_score(found.output) for found in values)
        if by_value:
            chosen = query.best_values(log, output, count, net)
        else:
            chosen = query.piped_values(log, count, net)
        if not chosen:
            names = sorted({found.output for found in values})
            raise CaffeSplitError(
                f"{path} holds no line with both `Test` and `acc`; choose with --output: {', '.join(names)}"
            )
        _show_values(log, chosen, records if as_json else None, value, snapshot)
        _say_of(log, values, output, net)

    status = _each(found_in(logs), one)
    if as_json:
        click.echo(jsontext.dumps(records))
    return status


@click.command()
@LOGS
@click.option("--output", metavar="NAME", help="The last value of this test output.")
@click.option("--value", is_flag=True, help="Print only the numbers.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON, with iteration and line.")
@net_option(ALL)
@rank_option
def final(
    logs: tuple[str, ...], output: str | None, value: bool, as_json: bool, net: int | None, rank: int | None
) -> int:
    """The lines of the final test accuracy in each LOG, or each log of a training in a folder.

    They are the lines of

    \b
      grep -B 3 "Optimization Done" LOG | grep -i acc

    and where several outputs push the accuracy out of those three lines, the lines of the last test phase.

    \b
    Example:
      caffe-split final exp/
    """
    records: list[dict[str, object]] = []

    def one(path: str) -> None:
        plain = output is None and net is None and not (value or as_json)
        lines = [] if not plain else pipeline.final_lines(path, rank=rank, say=say)
        if lines:
            _show_lines(path, lines, rank)
            return
        from caffe_split.trainlog import query

        log = log_at(path, rank)
        chosen = query.final_values(log, output, net)
        state, detail = query.state_of(log)
        if state != "done":
            reason = f": {detail}" if detail else ""
            say(f"{path}: {state} at iteration {log.last_iteration}{reason}")
        _show_values(log, chosen, records if as_json else None, value, False)
        _say_of(log, chosen, output, net)

    status = _each(found_in(logs), one)
    if as_json:
        click.echo(jsontext.dumps(records))
    return status


def _misleading(path: str) -> str:
    return (
        f"note: in {path} field 11 is not the plain value of every line above, so the pipeline's order is "
        "not the values' order; --output NAME orders by value"
    )


def _show_values(
    log: TrainingLog,
    chosen: list[Value],
    records: list[dict[str, object]] | None,
    value: bool,
    snapshot: bool,
) -> None:
    from caffe_split.trainlog import query

    for found, line in zip(chosen, query.read_lines(log, chosen)):
        near = nearest_snapshot(log, found.iteration, found.line) if snapshot or records is not None else None
        if records is not None:
            records.append(show.record(log, found, line, near))
        elif value:
            click.echo(show.number(found.value) if found.value == found.value else "nan")
        else:
            _write(line)
        if snapshot and records is None:
            sys.stdout.flush()
            click.echo(f"    iteration {found.iteration}, {show.nearest(near, found.iteration)}")
