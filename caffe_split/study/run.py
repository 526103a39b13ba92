"""Running a study: its folder, Snakemake in it, and its progress."""

from __future__ import annotations

import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_split.engine.cores import usable_cores
from caffe_split.errors import CaffeSplitError
from caffe_split.files import append_to, make_folder, remove_file
from caffe_split.study.checks import check_folder, check_same, inputs_of
from caffe_split.study.duration import measured_pace, planned_steps
from caffe_split.study.locks import holding, is_held
from caffe_split.study.model import Study
from caffe_split.study.paths import PLAN, open_study, read_json, write_json
from caffe_split.study.plan import StudyStep, steps_of
from caffe_split.study.results import read_mark
from caffe_split.study.versions import machine, versions

SNAKEFILE = Path(__file__).with_name("Snakefile")
LOG = "snakemake.log"


@dataclass(frozen=True)
class Progress:
    """How far a study is: `running` are the titles of the steps at work; `left` seconds, None where not known."""

    done: int
    failed: int
    total: int
    running: tuple[str, ...]
    left: float | None


def jobs_for(study: Study) -> int:
    """How many steps run at the same time where nobody says: what the cores allow, or one where they share a device."""
    return 1 if study.device != "cpu" else max(1, usable_cores() // study.threads)


def run_study(
    study: Study, out: Path, jobs: int, extra: Sequence[str] = (), show: Callable[[Progress], None] | None = None
) -> int:
    """Run the study in the folder `out`, or go on with what an earlier start left; returns Snakemake's exit status.

    `extra` are options for Snakemake itself, such as those of an executor. Raises `CaffeSplitError` where `out` holds
    another study, where a study is running in it, where nothing can be written, and where Snakemake does not begin.
    """
    check_folder(out)
    make_folder(out)
    with _alone(out), holding(out / "locks" / "snakemake.lock") as lock:
        steps = steps_of(study)
        begin(study, out, steps)
        command = snakemake(out, jobs, extra)
        start = time.time()
        with append_to(out / LOG) as log:
            before = log.tell()
            child = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT, pass_fds=(lock.fd,)
            )
            lock.owners(os.getpid(), child.pid)
            _watch(child, lambda: show(progress_of(study, out, start, jobs)) if show is not None else None)
        if not (out / "results" / "table.json").exists():
            _make_table(out)
        if child.returncode:
            _check_begun(out / LOG, before, extra)
        return child.returncode


def snakemake(out: Path, jobs: int, extra: Sequence[str] = ()) -> list[str]:
    """The command that runs the steps of the study in `out` that have no mark."""
    return [
        *(sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(out), "--keep-going"),
        # A mark is written whole or not at all. A step that Snakemake did not see end has one where it did end.
        *("--ignore-incomplete", "--keep-incomplete"),
        # A killed Snakemake leaves its locks behind; our own lock says whether one is running.
        "--nolock",
        *("--rerun-triggers", "mtime", "--cores", str(jobs)),
        *(() if "--jobs" in extra or "-j" in extra else ("--jobs", str(jobs))),
        *extra,
    ]


def _check_begun(log: Path, before: int, extra: Sequence[str]) -> None:
    """Raises `CaffeSplitError` where Snakemake, which failed, has run no step: an option of its, or its executor."""
    said = log.read_bytes()[before:].decode("utf-8", "replace")
    refused = "__main__.py: error: "
    # With its --quiet, Snakemake names no rules, but says that it runs jobs; with --quiet all only what it refuses.
    silent = {"all", "--quiet=all"} & {*extra} and refused not in said
    if not silent and not re.search(r"^((local)?rule |Execute \d+ jobs)", said, re.MULTILINE):
        why = (said.strip().splitlines() or ["nothing said"])[-1].rpartition(refused)[2]
        options = "; it gets the options behind --" if extra else ""
        raise CaffeSplitError(f"Snakemake ran no step: {why} (from {log}){options}")


def _make_table(out: Path) -> None:
    """Make the table where Snakemake did not, because a step died without a mark. Raises `CaffeSplitError`."""
    command = [sys.executable, "-m", "caffe_split.study", "table"]
    done = subprocess.run(command, cwd=out, capture_output=True, text=True, check=False)
    if done.returncode:
        said = (done.stderr.strip().splitlines() or ["nothing said"])[-1]
        raise CaffeSplitError(f"{out}: no table could be made: {said}")


def _watch(child: subprocess.Popen[bytes], look: Callable[[], None]) -> None:
    """Wait for Snakemake; when we are interrupted, it is interrupted, too."""
    try:
        while child.poll() is None:
            start = time.monotonic()
            look()
            # The trainings need the cores: a look at a large study takes a tenth of a second.
            pause = max(1.0, 50 * (time.monotonic() - start))
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(pause)
        look()
    except BaseException:
        child.send_signal(signal.SIGINT)
        child.wait()
        raise


def begin(study: Study, out: Path, steps: Sequence[StudyStep]) -> None:
    """Write the plan, and remove the marks of failures and the table of an earlier start."""
    inputs = inputs_of(study)
    check_same(study, inputs, out)
    if (out / PLAN).exists():
        study = study.after(open_study(out))
    _forget_failures(out, steps)
    write_json(
        out / PLAN,
        {
            "study": study.as_dict(),
            "inputs": inputs,
            "steps": [_planned(step) for step in steps],
            "source": study.file.read_text(encoding="utf-8"),
            "run_by": _run_by(study, out, steps),
        },
    )
    remove_file(out / "results" / "table.json")


def _run_by(study: Study, out: Path, steps: Sequence[StudyStep]) -> list[str]:
    """Versions and machine of each start that had something to do, in order."""
    before: list[str] = []
    if (out / PLAN).exists():
        before = read_json(out / PLAN).get("run_by") or ["begun by a version that did not say so"]
    if all((out / step.output).exists() for step in steps):
        return before
    return list(dict.fromkeys([*before, f"{versions(study)}; {machine()}"]))


def _planned(step: StudyStep) -> dict[str, Any]:
    return {"title": step.title, "needs": list(step.needs), "output": step.output, "threads": 1}


@contextlib.contextmanager
def _alone(out: Path) -> Iterator[None]:
    """Hold the folder. Raises `CaffeSplitError` where another `caffe-split study` does."""
    lock = out / "locks" / "study.lock"
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(holding(lock, wait=False))
        except CaffeSplitError as error:
            raise CaffeSplitError(f"{out}: a study is running in it already ({error})") from None
        yield


def _forget_failures(out: Path, steps: Sequence[StudyStep]) -> None:
    """Steps that failed are tried again."""
    for step in steps:
        mark = read_mark(step, out)
        if mark is not None and mark.failed:
            remove_file(out / step.output)


def progress_of(study: Study, out: Path, start: float, jobs: int) -> Progress:
    """How far the study is, by the marks and locks in its folder."""
    steps = steps_of(study)
    marks = [mark for mark in (read_mark(step, out) for step in steps) if mark is not None]
    running = tuple(
        step.title
        for step in steps
        if not (out / step.output).exists() and is_held(out / "locks" / f"{step.title}.lock")
    )
    pace = measured_pace(study, out)
    left = sum(pace.seconds(step) for step in planned_steps(study, out) if not step.done) / jobs if pace else None
    return Progress(len(marks), sum(mark.failed is not None for mark in marks), len(steps), running, left)
