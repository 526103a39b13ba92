"""A study's page: the question, how it was run, the table, and what the numbers support."""

from __future__ import annotations

import math
import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from caffe_split.backends.choose import get_backend
from caffe_split.errors import CaffeSplitError
from caffe_split.files import make_folder, reason, write_atomic
from caffe_split.study import nets
from caffe_split.study.keep import keep_runs
from caffe_split.study.model import RATE, Study, random_name, wider_name
from caffe_split.study.paths import PLAN, read_json
from caffe_split.study.plan import steps_of
from caffe_split.study.published import BEGIN, END, SOURCE, SOURCE_END, beside, check_page
from caffe_split.study.read import read_study
from caffe_split.study.remarks import of_earlier_plans
from caffe_split.study.results import read_mark
from caffe_split.study.rows import Row, differences
from caffe_split.study.statistics import Interval
from caffe_split.study.table import markdown, write_table
from caffe_split.study.versions import machine, versions

_BEST = "best test accuracy"
_WIDER = (
    "- `{}` is the unsplit net whose split layers have more kernels, until it has the parameters of the unfolded X; "
    "trained from its fillers, with the stop at iteration {} that the others have."
)


def publish_study(study: Study, rows: Sequence[Row], out: Path, folder: Path, jobs: int, logs: bool = False) -> Path:
    """Write `folder`/NAME.md with its table and figures beside it; the page's path.

    With `logs`, the first seed's nets and short logs are kept in `folder`/NAME (see `keep_runs`). A page of that name
    of the same plan is replaced, its conclusion kept. Raises `CaffeSplitError` for any other file of that name, and
    where nothing can be written.
    """
    page, conclusion = check_page(study, folder, logs)
    command = command_of(study, out, folder, jobs) + (" --logs" if logs else "")
    text = _page(study, rows, out, command, conclusion)
    try:
        make_folder(folder)
        # The page first: by it the other files are known as ours, so that one that was cut short can be made again.
        write_atomic(page, text.encode("utf-8", "surrogateescape"))
        write_table(study, rows, beside(page))
    except OSError as error:
        raise CaffeSplitError(f"{folder}: cannot be written: {reason(error)}") from None
    if logs:
        keep_runs(study, out, page.with_suffix(""))
    return page


def _page(study: Study, rows: Sequence[Row], out: Path, command: str, conclusion: str) -> str:
    # Folders that an earlier version wrote lack these keys.
    plan = read_json(out / PLAN)
    source = plan.get("source") or study.file.read_text(encoding="utf-8")
    run_by = plan.get("run_by") or [f"{versions(study)}; {machine()}"]
    marks = [read_mark(step, out) for step in steps_of(study)]
    seconds = sum(mark.seconds for mark in marks if mark is not None)
    lines = [
        f"# {study.name}",
        "",
        f"    {command}",
        "",
        f"{'; then '.join(run_by)}. The steps took {seconds / 3600:.2f} hours together.",
        *_left_out(study, plan["study"]["seeds"]),
        *(line for said in of_earlier_plans(study) for line in ("", said)),
        "",
        "## Conclusion",
        "",
        BEGIN,
        conclusion,
        END,
        "",
        "## Reading",
        "",
        *readings(rows, study.comparisons),
        "",
        "## Table",
        "",
        markdown(rows).rstrip(),
        "",
        f"![the paired differences of the runs]({study.name}_gains.png)",
        "",
        f"![a point a seed and run]({study.name}.png)",
        "",
        f"Each seed's values: [{study.name}.csv]({study.name}.csv); all: [{study.name}.json]({study.name}.json).",
        "",
        "## How the runs compare",
        "",
        *_method(study),
        "",
        "## The study",
        "",
        f"{SOURCE}{source.strip()}{SOURCE_END}",
        "",
    ]
    return "\n".join(lines)


def _left_out(study: Study, planned: Sequence[int]) -> list[str]:
    """What a page of a part of a study says first."""
    said = []
    if len(study.seeds) < len(planned):
        seeds = ", ".join(map(str, study.seeds))
        said.append(f"has {len(study.seeds)} of the study's {len(planned)} seeds ({seeds})")
    later = [name for name in study.runs if name not in study.wanted]
    if later:
        said.append(f"is without the runs {', '.join(later)}")
    return ["", f"This page {' and '.join(said)}; the rest was left out, or not done yet."] if said else []


def readings(rows: Sequence[Row], count: int) -> list[str]:
    """One sentence per run on its difference to the control, and what such sentences can support.

    `count` is the number of comparisons of final accuracies that the study plans.
    """
    lines = []
    for row in rows:
        lines += _reading(row.run, "final test accuracy", row.control, row.final_difference)
        lines += _reading(row.run, _BEST, row.control, row.best_difference)
        for other, found in differences(row).items():
            lines += _reading(row.run, "final test accuracy", other, found)
    chance = 100 * (1 - 0.95**count)
    note = (
        f"The intervals are each of 95 % by themselves. Were the {count} comparisons of final accuracies independent, "
        f"and no run different, one or more would leave zero out with a chance of {chance:.0f} %. The table's column "
        f"*all together* has intervals that are right together, for all {count}, with at least 95 % (Bonferroni's "
        "correction)."
    )
    if count == 1:
        note = "The intervals are of 95 %; one comparison of final accuracies is planned, and none to correct it for."
    return [*lines, "", f"{note} The best of several tests of a run is read off the test set, and flatters every run."]


def _reading(run: str, what: str, other: str, found: Interval | None) -> list[str]:
    if found is None:
        return []
    ends = "" if math.isnan(found.low) else f", 95 % CI {100 * found.low:+.3f} .. {100 * found.high:+.3f}"
    if not math.isnan(found.low) and what != _BEST:  # the correction is for the final ones alone
        ends += f", {100 * found.together[0]:+.3f} .. {100 * found.together[1]:+.3f} together with the others"
    mean = "not known" if math.isnan(found.mean) else f"{100 * found.mean:+.3f} points"
    return [f"- {run}: {what} less that of `{other}`: {mean} (n = {found.pairs}{ends}): {found.reading}."]


def _method(study: Study) -> list[str]:
    end = nets.length(study)
    goes_on = get_backend(study.engine).reads_on and study.schedule == "continue"
    data = "goes on where it stood" if goes_on else "begins at the first record again"
    after = f"iterations {study.split} to {end}" if study.schedule == "continue" else f"{end} iterations from 0"
    momentum = (
        "the solver state goes on: momentum stays with its kernels, new parameters start with none"
        if study.schedule == "continue"
        else "no solver state is taken over: all momentum starts at zero"
    )
    batches = f", and learns from batches of at most {study.most_records} records" if study.most_records else ""
    return [
        *([f"- This is a rehearsal: each training is tested at its end alone{batches}."] if study.rehearses else []),
        f"- Under each seed one baseline is trained to iteration {nets.baseline_length(study)}. From its snapshot at "
        f"{study.split} `continue` trains on, and that snapshot every arm splits.",
        *_chains(study),
        f"- After the split all train {after} of the same solver, by the same rates; {momentum}.",
        f"- The data are in the same order in all runs: after the split the data set {data}, in the control, too.",
        "- The seed sets the fillers, the noise of the split, the random partition, and what is random in the data.",
        *([f"- `{RATE}X` is `continue` at X times the rate after the split."] if study.rates else []),
        *([f"- `{random_name('X')}` is the arm X with its kernels divided by chance."] if study.random else []),
        *([_WIDER.format(wider_name("X"), study.split)] if study.wider else []),
        "- Final is the last test of the log, best the highest. Folded and unfolded net are tested once more, both "
        "from the last snapshot; of the seeds the table has the largest difference, with its sign.",
        "- Moved by: ||w(end) - w(start)|| / ||w(start)|| of a part's weights after the split, the mean of layers and "
        "seeds.",
        "- Training seconds are those after the split.",
    ]


def _chains(study: Study) -> list[str]:
    """What the later rounds and their controls start from."""
    if len(study.controls) == 1:
        return []
    arms = "; ".join(f"{arm.name} splits {arm.after}" for arm in study.arms if arm.after)
    return [
        f"- Later rounds split the snapshot at {study.split} of another arm: {arms}. Each is compared with the control "
        f"that was trained as often without a split: {', '.join(study.controls)}, each from the one before.",
    ]


def command_of(study: Study, out: Path, folder: Path, jobs: int) -> str:
    """The command that makes the page, with paths relative to the current directory."""
    file, place = os.path.relpath(study.file), os.path.relpath(out)
    place = out.name if place.startswith(os.pardir) else place
    words = ["caffe-split", "study", file, "--jobs", str(jobs)]
    words += ["--out", place] if place != study.name else []
    own = read_study(study.file)
    words += ["--scale", study.scale] if study.scale != own.scale else []
    # A number of seeds means those from 1 on; other whole seeds of a study are what its own command leaves.
    counted = study.seeds == tuple(range(1, len(study.seeds) + 1))
    words += ["--seeds", str(len(study.seeds))] if counted and study.seeds != own.seeds else []
    words += ["--only", ",".join(study.only)] if study.only else []
    return shlex.join([*words, "--publish", os.path.relpath(folder)])
