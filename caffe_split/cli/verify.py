"""`caffe-split verify`: two nets on the same input."""

from __future__ import annotations

from pathlib import Path

import click

from caffe_split.backends.choose import names as backend_names
from caffe_split.cli.options import Shown, caffe_proto_option, ignore_extra_option, print_json, state_options
from caffe_split.cli.ranges import SEED, FiniteRange, IntRange


@click.command()
@click.argument("baseline", type=click.Path(path_type=Path))
@click.argument("derived", type=click.Path(path_type=Path))
@click.option(
    "--baseline-weights",
    type=click.Path(path_type=Path),
    help="Weights of BASELINE.  [default: those that DERIVED was made from]",
)
@click.option(
    "--derived-weights",
    type=click.Path(path_type=Path),
    help="Weights of DERIVED.  [default: folded.caffemodel or init.caffemodel beside DERIVED]",
)
@click.option("--batches", type=IntRange(min=1), default=1, show_default=True, help="Batches to forward.")
@state_options("TEST")
@click.option("--seed", type=SEED, default=0, show_default=True, help="Seed of all random numbers.")
@click.option(
    "--tolerance",
    type=FiniteRange(min=0),
    default=1e-4,
    show_default=True,
    help="Largest relative difference of a blob.",
)
@ignore_extra_option
@click.option(
    "--input",
    "input_file",
    type=click.Path(path_type=Path),
    help="An .npy array for nets of one input, or an .npz of arrays by the names of the inputs.",
)
@click.option(
    "--engine",
    type=click.Choice(backend_names(deploy_only=True)),
    help="What runs the nets; opencv: deploy nets only.  [default: the first of these that is installed]",
)
@caffe_proto_option
@click.option("--json", "as_json", is_flag=True, help="Print JSON.")
def verify(
    baseline: Path,
    derived: Path,
    baseline_weights: Path | None,
    derived_weights: Path | None,
    batches: int,
    shown: Shown,
    seed: int,
    tolerance: float,
    ignore_extra: bool,
    input_file: Path | None,
    engine: str | None,
    caffe_proto: Path | None,
    as_json: bool,
) -> int:
    """Forward the nets BASELINE and DERIVED on the same input, and print the largest difference of each blob.

    Both may be solvers, which also say the stages, and whose nets are those of the phase. Where a blob differs by more
    than the tolerance, relative to its largest value, the baseline is forwarded once more with its input rounded once:
    then a blob may also differ by 4 times what this rounding alone does to it. The exit status is 0 for the same
    function, 1 for another or an error.

    \b
    Example: caffe-split verify baseline.prototxt derived1/baseline.prototxt
    """
    from caffe_split.backends import verify as verification

    options = verification.VerifyOptions(
        batches, shown.asked(), seed, tolerance, input_file, engine, ignore_extra, caffe_proto
    )
    result = verification.verify(
        baseline,
        derived,
        baseline_weights=baseline_weights,
        derived_weights=derived_weights,
        options=options,
    )
    if as_json:
        print_json(
            {
                "passed": result.passed,
                "tolerance": tolerance,
                "engine": result.engine,
                "blobs": [
                    {**vars(row), "relative": row.relative, "passed": row.passes(tolerance)} for row in result.rows
                ],
            }
        )
    else:
        for line in verification.table(result.rows):
            click.echo(line)
        click.echo(result.verdict())
    return 0 if result.passed else 1
