"""One step of a study, in the study's folder: `python -m caffe_split.study s1.skip.train`; what Snakemake runs."""

from __future__ import annotations

import sys

from caffe_split.errors import CaffeSplitError


def main(title: str) -> int:
    """Run the step named `title`; 0 done, also where a training crashed (its mark says so), 1 could not be run."""
    from caffe_split.study.steps import run_step
    from caffe_split.study.table import write_results

    try:
        if title == "table":
            write_results()
        else:
            run_step(title)
    except CaffeSplitError as error:
        print(f"caffe-split study: {title}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1]))
