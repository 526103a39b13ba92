"""The command `table`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_split.cli.log_options import LOGS, THE_FIRST, found_in, log_at, net_option, rank_option, say
from caffe_split.cli.unread import leave_out
from caffe_split.errors import CaffeSplitError
from caffe_split.trainlog import show
from caffe_split.trainlog.summary import SORTS, Summary, sort_rows

if TYPE_CHECKING:
    from caffe_split.trainlog.model import TrainingLog


@click.command()
@LOGS
@click.option("--output", metavar="NAME", help="The test output to compare.  [default: the first accuracy]")
@click.option(
    "--format",
    "form",
    type=click.Choice(["markdown", "csv", "json"]),
    default="markdown",
    show_default=True,
    help="Form of the table.",
)
@click.option("--json", "as_json", is_flag=True, help="The same as --format json.")
@click.option(
    "--csv", "csv_folder", metavar="DIR", help="Write DIR/<log name>.train and .test instead, over earlier ones."
)
@click.option(
    "--series",
    "series_folder",
    metavar="DIR",
    help="Write DIR/<log name>.json instead, over an earlier one: everything.",
)
@click.option("--tensorboard", "event_folder", metavar="DIR", help="Write event files into DIR/<run> instead.")
@click.option("--sort", "sort", type=click.Choice(list(SORTS)), help="Sort the rows by this column, the best first.")
@click.option("--snapshot", "snapshots", is_flag=True, help="Add the snapshot nearest to each best.")
@click.option("--cost", is_flag=True, help="Add parameters and multiply-adds of the net that each log's folder trains.")
@net_option(THE_FIRST)
@rank_option
def table(
    logs: tuple[str, ...],
    output: str | None,
    form: str,
    as_json: bool,
    csv_folder: str | None,
    series_folder: str | None,
    event_folder: str | None,
    sort: str | None,
    snapshots: bool,
    cost: bool,
    net: int | None,
    rank: int | None,
) -> int:
    """Compare training runs: best and final test accuracy, difference to the first, time, speed, state.

    A folder stands for every log of a training inside it. Of several runs the last line names the best and its
    snapshot.

    The CSV files are those of BVLC's parse_log.py, column for column. Files that are written are exports of logs, which
    grow: they replace those of earlier exports. Logs of one name have a folder each, DIR/<run>/<log name>.train.

    \b
    Examples:
      caffe-split table baseline/train.log derived*/train.log
      caffe-split table runs/ --sort best --snapshot
      caffe-split table baseline/train.log --csv curves
    """
    from caffe_split.trainlog import query
    from caffe_split.trainlog.export_logs import export_logs

    if csv_folder or series_folder or event_folder:
        leave_out("files are written in place of the table", "form", "as_json", "sort", "snapshots", "cost")
    read: list[TrainingLog] = []
    status = 0
    for path in found_in(logs):
        try:
            log = log_at(path, rank)
            if log.runs:
                read.append(log)
            if not (output is None and query.state_of(log)[0] == "running"):
                log.values(output, net)  # or says what there is instead
        except CaffeSplitError as error:
            say(f"caffe-split: {error}")
            status = 1
    if csv_folder or series_folder or event_folder:
        for written in export_logs(read, csv_folder, series_folder, event_folder):
            click.echo(f"wrote {written}")
    elif read:
        rows = query.summarise(read, output, net)
        if cost:
            rows = [_with_cost(row) for row in rows]
        if sort is not None:
            rows = sort_rows(rows, sort)
        if as_json or form == "json":
            click.echo(show.as_json(rows))
        else:
            click.echo(show.as_csv(rows) if form == "csv" else show.markdown(rows, snapshots))
    return status


def _with_cost(row: Summary) -> Summary:
    from caffe_split.layertypes.cost import cost_beside  # reads nets: not what a log needs

    try:
        found = cost_beside(Path(row.path))
    except CaffeSplitError as error:
        say(f"note: {row.path}: {error}")
        return row
    return row.with_cost(found.parameters, found.macs)
