"""The command `study`."""

from __future__ import annotations

from pathlib import Path

import click


@click.command()
@click.argument("file", type=click.Path(path_type=Path))
@click.option("--jobs", type=click.IntRange(1), default=1, show_default=True, help="Steps at the same time.")
@click.option("--out", type=click.Path(path_type=Path), help="Folder of the study.  [default: FILE's name, here]")
@click.option("--dry-run", is_flag=True, help="Print the plan and run nothing.")
def study(file: Path, jobs: int, out: Path | None, dry_run: bool) -> int:
    """Train the arms and controls of a study FILE (YAML) under its seeds; table and figure in OUT/results.

    Killed and started again it goes on where it was.

    \b
    Example:
      caffe-split study studies/digits.yaml --jobs 2
    """
    from rich.console import Console
    from rich.live import Live

    from caffe_split.study.plan import steps_of
    from caffe_split.study.read import read_study
    from caffe_split.study.run import Progress, check_study, run_study, work

    plan = read_study(file)
    check_study(plan)
    out = (out or Path(plan.name)).resolve()
    if dry_run:
        sizes = work(plan)
        for step in steps_of(plan):
            click.echo(f"{step.title}" + (f"  {sizes[step.title]} iterations" if step.title in sizes else ""))
        click.echo(f"{len(steps_of(plan))} steps, {sum(sizes.values()):,} iterations; nothing run (--dry-run)")
        return 0
    console = Console(stderr=True)
    with Live(console=console, refresh_per_second=1, transient=True) as live:

        def show(now: Progress) -> None:
            left = "" if now.left is None else f", about {now.left / 60:.0f} min left"
            failed = f", {now.failed} failed" if now.failed else ""
            live.update(f"{now.done} of {now.total} steps{failed}{left}; running: {', '.join(now.running) or '-'}")

        status = run_study(plan, out, jobs, show=show)
    click.echo((out / "results" / "table.md").read_text(encoding="utf-8"))
    click.echo(f"results in {out / 'results'}; Snakemake's log is {out / 'snakemake.log'}", err=True)
    return 1 if status else 0
