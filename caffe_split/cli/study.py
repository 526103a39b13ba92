"""The command `study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from caffe_split.cli.options import print_json
from caffe_split.cli.ranges import IntRange
from caffe_split.cli.unread import leave_out

if TYPE_CHECKING:
    from caffe_split.study.model import Study
    from caffe_split.study.rows import Row


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("snakemake", nargs=-1)
@click.option(
    "--jobs",
    type=IntRange(1),
    help="Steps at the same time.  [default: cores divided by the study's threads; on a GPU, 1]",
)
@click.option("--scale", metavar="X", help="Shorten all trainings to this share, such as 1/64.  [default: the file's]")
@click.option("--seeds", type=IntRange(1), metavar="N", help="The seeds 1 to N.  [default: the file's]")
@click.option("--only", metavar="RUN,...", help="These runs of the table, with their controls; the others later.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the study.  [default: its name, here]")
@click.option("--dry-run", is_flag=True, help="Print the steps and an estimate of the time; run nothing.")
@click.option("--no-run", is_flag=True, help="Run nothing: the results of the seeds that are whole so far.")
@click.option(
    "--publish",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Also write the page DIR/NAME.md, with the figure and the numbers.",
)
@click.option("--logs", is_flag=True, help="With --publish: keep the first seed's nets and short logs in DIR/NAME/.")
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def study(
    file: Path,
    snakemake: tuple[str, ...],
    jobs: int | None,
    scale: str | None,
    seeds: int | None,
    only: str | None,
    out: Path | None,
    dry_run: bool,
    no_run: bool,
    publish: Path | None,
    logs: bool,
    as_json: bool,
) -> int:
    """Train the arms and controls of a study FILE (YAML) under its seeds; table and figure in OUT/results.

    A study that was killed goes on where it was when it is started again; steps that failed are tried again. Options
    after -- are for Snakemake, such as those of its executors for SLURM and Kubernetes. The exit status is 1 where a
    run failed; the table has all others. With --no-run the study may be running meanwhile.

    \b
    Examples:
      caffe-split study studies/digits.yaml --jobs 2
      caffe-split study studies/digits.yaml --jobs 2 --publish docs/results
      caffe-split study studies/resnet20_cifar10.yaml --scale 1/64 --seeds 2 --dry-run
      caffe-split study studies/digits.yaml --jobs 20 -- --executor slurm
    """
    from caffe_split.study.checks import check_study
    from caffe_split.study.paths import open_study
    from caffe_split.study.read import read_study
    from caffe_split.study.run import LOG, jobs_for, run_study
    from caffe_split.study.trainer import check_trainer, runs_here
    from caffe_split.study.view import view

    if logs and publish is None:
        raise click.UsageError("--logs needs --publish DIR: it says where the logs are kept.")
    if dry_run:
        leave_out("--dry-run prints the steps, and has no results", "as_json", "publish", "logs")
    if snakemake and not snakemake[0].startswith("-"):
        raise click.UsageError(
            f"'{snakemake[0]}' is one file too many: a study is one FILE; options for Snakemake stand after --."
        )
    if no_run and (dry_run or snakemake):
        raise click.UsageError("--no-run runs nothing: give neither --dry-run nor options for Snakemake with it.")
    changes = {key: value for key, value in (("scale", scale), ("seeds", seeds)) if value is not None}
    plan = read_study(file, changes)
    runs = None if only is None else [name.strip() for name in only.split(",") if name.strip()]
    out = (out or Path(plan.name)).absolute()
    if no_run:
        from caffe_split.study.so_far import so_far

        found = so_far(plan, out, changes if runs is None else {**changes, "only": runs})
        rows = _print_table(found.study, out, as_json)
        click.echo(str(found), err=True)
        return _publish(found.study, rows, out, jobs, publish, logs)
    if runs is not None:
        from caffe_split.study.pieces import piece

        plan = piece(plan, runs)
    check_study(plan)
    if runs_here(snakemake):
        check_trainer(plan)
    jobs = jobs or jobs_for(plan)
    if dry_run:
        _dry_run(plan, out, jobs)
        return 0
    if publish is not None:
        from caffe_split.study.published import check_page

        check_page(plan, publish, logs)
    with view(plan.name) as show:
        status = run_study(plan, out, jobs, snakemake, show)
    plan = open_study(out)
    rows = _print_table(plan, out, as_json)
    click.echo(f"results in {out / 'results'}; Snakemake's log is {out / LOG}", err=True)
    return _publish(plan, rows, out, jobs, publish, logs) or (1 if status else 0)


def _dry_run(plan: Study, out: Path, jobs: int) -> None:
    from caffe_split.study.duration import estimate

    found = estimate(plan, out)
    for step in found.steps:
        click.echo(str(step))
    click.echo(f"{found.summary(jobs)}; nothing run (--dry-run). The study's folder is {out}")


def _print_table(plan: Study, out: Path, as_json: bool) -> list[Row]:
    from caffe_split.study.remarks import of_earlier_plans
    from caffe_split.study.rows import read_results, rows_of
    from caffe_split.study.table import markdown

    rows = rows_of(plan, read_results(plan, out))
    if as_json:
        print_json([row.as_dict() for row in rows])
    else:
        click.echo(markdown(rows), nl=False)
    for line in of_earlier_plans(plan):
        click.echo(line, err=True)
    return rows


def _publish(plan: Study, rows: list[Row], out: Path, jobs: int | None, publish: Path | None, logs: bool) -> int:
    """Write the page where one is wanted; the exit status."""
    if publish is not None:
        from caffe_split.study.publish import publish_study
        from caffe_split.study.run import jobs_for

        page = publish_study(plan, rows, out, publish, jobs or jobs_for(plan), logs=logs)
        click.echo(f"wrote {page}", err=True)
    return 1 if any(row.failed for row in rows) else 0
