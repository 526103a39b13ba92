"""The command `study`."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from caffe_split.study.model import Study


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.argument("snakemake", nargs=-1)
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Steps at the same time.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the study.  [default: its name, here]")
@click.option("--dry-run", is_flag=True, help="Print the steps and an estimate of the time; run nothing.")
@click.option(
    "--publish",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Then write DIR/NAME.md, with the figure and the numbers.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the table as JSON.")
def study(
    file: Path,
    snakemake: tuple[str, ...],
    jobs: int,
    out: Path | None,
    dry_run: bool,
    publish: Path | None,
    as_json: bool,
) -> int:
    """Train the arms and controls of a study FILE (YAML) under its seeds; table and figure in OUT/results.

    Killed and started again it goes on where it was; what had failed is tried again. Options after -- are
    Snakemake's own, as those of its executors for SLURM, Kubernetes and others. Exit status 1 where a run failed; the
    table has the others.

    \b
    Examples:
      caffe-split study studies/digits.yaml --jobs 2
      caffe-split study studies/digits.yaml --jobs 2 --publish docs/results
      caffe-split study studies/digits.yaml --jobs 20 -- --executor slurm
    """
    from caffe_split.study.checks import check_study
    from caffe_split.study.read import read_study
    from caffe_split.study.run import run_study
    from caffe_split.study.view import view

    plan = read_study(file)
    check_study(plan)
    out = (out or Path(plan.name)).absolute()
    if dry_run:
        _dry_run(plan, out, jobs)
        return 0
    if publish is not None:
        from caffe_split.study.publish import check_page

        check_page(plan, publish)
    with view(plan.name) as show:
        status = run_study(plan, out, jobs, snakemake, show)
    return _results(plan, out, publish, as_json, status, jobs)


def _dry_run(plan: Study, out: Path, jobs: int) -> None:
    from caffe_split.study import nets
    from caffe_split.study.checks import check_same, inputs_of
    from caffe_split.study.plan import steps_of
    from caffe_split.study.run import measured_speed, time_baseline, work
    from caffe_split.trainlog.show import duration

    check_same(plan, inputs_of(plan), out)
    sizes, steps = work(plan), steps_of(plan)
    for step in steps:
        done = "  done" if (out / step.output).exists() else ""
        click.echo(f"{step.title}{f'  {sizes[step.title]} iterations' if step.title in sizes else ''}{done}")
    left = sum(size for title, size in sizes.items() if not (out / f"done/{title}.json").exists())
    each, source = measured_speed(plan, out), f"as the runs in {out} took, tests included"
    if each is None and not all(path.exists() for path in nets.data_files(plan)):
        click.echo(
            f"{len(steps)} steps, {left:,} iterations to do: no estimate before the data are made; nothing run "
            "(--dry-run)"
        )
        return
    if each is None:
        each, source = time_baseline(plan), "as 20 iterations of the baseline took just now; arms and tests take longer"
    click.echo(
        f"{len(steps)} steps, {left:,} iterations to do: about {duration(left * each / jobs)} at {jobs} at a time, "
        f"{1000 * each:.3g} ms each ({source}); nothing run (--dry-run)"
    )


def _results(plan: Study, out: Path, publish: Path | None, as_json: bool, status: int, jobs: int) -> int:
    from caffe_split.cli.options import print_json
    from caffe_split.study.paths import read_json
    from caffe_split.study.plan import steps_of

    rows = read_json(out / "results" / "table.json")["rows"]
    if as_json:
        print_json(rows)
    else:
        click.echo((out / "results" / "table.md").read_text(encoding="utf-8"), nl=False)
    click.echo(f"results in {out / 'results'}; Snakemake's log is {out / 'snakemake.log'}", err=True)
    if publish is not None:
        from caffe_split.study.publish import command_of, publish_study

        marks = [read_json(out / step.output) for step in steps_of(plan) if (out / step.output).exists()]
        command = command_of(plan, out, publish, jobs)
        click.echo(f"wrote {publish_study(plan, rows, out, publish, marks, command)}", err=True)
    return 1 if status or any(row["failed"] for row in rows) else 0
