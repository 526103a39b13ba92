"""Logs and nets of a study that are kept beside its page, so that it can be read as one reads logs."""

from __future__ import annotations

import re
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import make_folder, reason, write_atomic
from caffe_split.study import nets
from caffe_split.study.model import Study
from caffe_split.study.paths import run_folder
from caffe_split.study.plan import steps_of
from caffe_split.study.results import read_mark

DISPLAYS = 100  # a curve of this many points, over the whole training
_DISPLAY = re.compile(r"\] Iteration (\d+)\b.*\bloss = ")
_NET, _LOG = nets.NET, "train.log"
_DROPPED = re.compile(r"\] +Train net output #|\] Iteration \d+, lr = |\] Snapshotting ")


# A test before the first update whose loss is not finite: that of a net with BatchNorm and no statistics yet.
_UNTRAINED = re.compile(r"^.*\] Iteration 0, Testing net .*\n(?:.*\] +Test net output #.*\n)+", re.MULTILINE)
_NOT_FINITE = re.compile(r"= -?(nan|inf)\b")


def short_log(text: str, displays: int = DISPLAYS) -> str:
    r"""A training's log with the lines that plots, tables and grep read.

    All tests are kept, and displays of the loss, evenly spaced, at most `displays` and the last; lines are as they
    were. Dropped are the training net's outputs (TPM among them), rates and snapshots; and a test at iteration 0 whose
    loss is not finite: with it Caffe prints an accuracy of 1, which `sort` would take for the best.

    >>> lines = [f"I0101 00:00:00.0 1 solver.cpp:239] Iteration {number}, loss = 1" for number in range(5)]
    >>> [line.split("] ")[1] for line in short_log("\n".join(lines), 2).splitlines()]
    ['Iteration 0, loss = 1', 'Iteration 3, loss = 1', 'Iteration 4, loss = 1']
    """
    text = _UNTRAINED.sub(lambda test: "" if _NOT_FINITE.search(test[0]) else test[0], text)
    lines = [line for line in text.splitlines(keepends=True) if not _DROPPED.search(line)]
    shown = [place for place, line in enumerate(lines) if _DISPLAY.search(line)]
    step = -(-len(shown) // displays) if shown else 1
    dropped = set(shown) - set(shown[::step]) - set(shown[-1:])
    return "".join(line for place, line in enumerate(lines) if place not in dropped)


def holds_runs(folder: Path) -> bool:
    """Whether a folder has nothing else than what `keep_runs` writes, also where it was cut short."""
    so_far = (set[str](), {_NET}, {_NET, _LOG})
    return all(run.is_dir() and {path.name for path in run.iterdir()} in so_far for run in folder.iterdir())


def keep_runs(study: Study, out: Path, folder: Path) -> list[Path]:
    """Write `folder`/RUN/train.log, shortened, and RUN/train_val.prototxt of the study's first seed; the folders.

    The nets name their data as the study's own net does. Raises `CaffeSplitError` where a run of that seed has no log,
    and where nothing can be written.
    """
    seed = study.seeds[0]
    kept = []
    for step in steps_of(study):
        mark = read_mark(step, out)
        if step.verb != "train" or step.seed != seed or mark is None or mark.failed:
            continue
        source, target = out / run_folder(seed, step.name), folder / step.name
        try:
            log = short_log((source / _LOG).read_text(encoding="utf-8", errors="surrogateescape"))
            net = nets.with_own_data(study, source / _NET)
            make_folder(target)
        except OSError as error:
            raise CaffeSplitError(f"{source}: its log and net cannot be kept: {reason(error)}") from None
        write_atomic(target / _NET, net)
        write_atomic(target / _LOG, log.encode("utf-8", "surrogateescape"))
        kept.append(target)
    return kept
