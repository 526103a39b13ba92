"""The command `report`."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.cli.log_options import THE_FIRST, net_option, rank_option
from caffe_split.cli.log_path import LogPath


@click.command()
@click.argument("folders", metavar="DIR...", nargs=-1, required=True, type=LogPath(path_type=Path))
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    default=Path("report.html"),
    show_default=True,
    help="The page, FILE.html.",
)
@click.option("--force", is_flag=True, help="Replace the file --out.")
@click.option("--output", metavar="NAME", help="The test output to compare.  [default: the first accuracy]")
@click.option("--title", help="Title of the page.  [default: the runs' names]")
@net_option(THE_FIRST)
@rank_option
def report(
    folders: tuple[Path, ...],
    out: Path,
    force: bool,
    output: str | None,
    title: str | None,
    net: int | None,
    rank: int | None,
) -> int:
    """Write one HTML file on the training runs in some folders, or in the logs given.

    It holds the table of `caffe-split table --cost`, curves to zoom and read, the split of each derived run with its
    TPM histograms and a drawing, and the commands to repeat it. It needs no network and no other file. A folder
    stands for its train.log, or else for every log of a training inside it.

    \b
    Example:
      caffe-split report baseline derived1 derived2 --out report.html
    """
    from caffe_split.report.page import check_page, write_report
    from caffe_split.report.runs import Asked, read_runs

    complaints: list[str] = []

    def say(text: str) -> None:
        complaints.append(text)
        click.echo(f"caffe-split: {text}", err=True)

    check_page(out, force)
    asked = Asked(output, rank, net)
    runs = read_runs(folders, say, asked)
    for run in runs:
        for note in run.notes:
            click.echo(f"note: {run.log_path}: {note}", err=True)
    write_report(runs, out, title, force, asked)
    click.echo(f"wrote {out}")
    return 1 if complaints else 0
