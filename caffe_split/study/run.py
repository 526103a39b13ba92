"""Running a study: the folder, Snakemake in it, and the view of how far it is."""

from __future__ import annotations

import contextlib
import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_split.errors import CaffeSplitError
from caffe_split.study import nets
from caffe_split.study.holding import holding, is_held
from caffe_split.study.places import PLAN, read_json, write_json
from caffe_split.study.plan import Step, steps_of
from caffe_split.study.read import Study

SNAKEFILE = Path(__file__).with_name("Snakefile")


@dataclass(frozen=True)
class Progress:
    """How far a study is. `running` are the titles of steps begun and not ended; `left` seconds, None if untold."""

    done: int
    failed: int
    total: int
    running: tuple[str, ...]
    left: float | None


def check_study(study: Study) -> None:
    """Check what can be checked before anything runs. Raises `CaffeSplitError` in one line."""
    from caffe_split.choose import choose_layers

    if importlib.util.find_spec("snakemake") is None:
        raise CaffeSplitError("a study needs Snakemake, which is not installed: pip install 'caffe-split[study]'")
    net = nets.study_net(study)
    missing = [path for path in nets.data_files(study) if not path.exists()]
    if missing and not study.make:
        raise CaffeSplitError(
            f"{study.file}: data {missing[0]} is not there; make it with `caffe-split data`, or let the key `data` "
            "name the folder that holds it"
        )
    for arm in study.arms:
        if arm.layers:
            choose_layers(net, arm.layers, 1, [])


def work(study: Study) -> dict[str, int]:
    """Iterations of each training step, by title."""
    end = nets.length(study)
    after = end - study.split if study.schedule == "continue" else end
    found = {}
    for step in steps_of(study):
        if step.verb == "train":
            first = study.split if step.name == "baseline" or step.name.startswith("wider-") else 0
            found[step.title] = first + (0 if step.name == "baseline" else after)
    return found


def run_study(
    study: Study, out: Path, jobs: int, extra: Sequence[str] = (), show: Callable[[Progress], None] | None = None
) -> int:
    """Run the study in the folder `out`, going on where an earlier start of it ended. Snakemake's exit status.

    Raises `CaffeSplitError` where `out` holds another study, and where one is running in it.
    """
    out.mkdir(parents=True, exist_ok=True)
    with _alone(out), holding(out / "locks" / "snakemake.lock") as lock:
        _check_same(study, out)
        steps = steps_of(study)
        plan = {"study": study.as_dict(), "steps": [_planned(step, study) for step in steps]}
        write_json(out / PLAN, plan)
        _forget_failures(out, steps)
        (out / "results" / "table.json").unlink(missing_ok=True)
        command = [sys.executable, "-m", "snakemake", "--snakefile", str(SNAKEFILE), "--directory", str(out),
                   "--cores", str(jobs), "--keep-going", "--rerun-incomplete", "--nolock", "--rerun-triggers", "mtime",
                   *extra]  # fmt: skip
        with (out / "snakemake.log").open("ab") as log:
            child = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT,
                                     pass_fds=(lock.fd,))  # fmt: skip
            lock.owners(os.getpid(), child.pid)
            start = time.time()
            try:
                while child.poll() is None:
                    if show is not None:
                        show(progress_of(study, out, start, jobs))
                    time.sleep(1)
            except KeyboardInterrupt:
                child.send_signal(signal.SIGINT)
                child.wait()
                raise
        if show is not None:
            show(progress_of(study, out, start, jobs))
        if not (out / "results" / "table.json").exists():
            # A step died without its mark: the table says so.
            subprocess.run([sys.executable, "-m", "caffe_split.study", "table"], cwd=out, check=False)
        return child.returncode


def _planned(step: Step, study: Study) -> dict[str, Any]:
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


def _check_same(study: Study, out: Path) -> None:
    if not (out / PLAN).exists():
        return
    before = read_json(out / PLAN)["study"]
    now = study.as_dict()
    for key in ("solver", "root", "engine", "precision", "seeds", "split", "window", "interval", "schedule"):
        old, new = before.get(key), list(now[key]) if isinstance(now[key], tuple) else now[key]
        if old != new and not (key == "seeds" and set(old) <= set(new)):
            raise CaffeSplitError(
                f"{out}: holds the study with {key} {old}, and the file says {new}; choose another --out"
            )


def _forget_failures(out: Path, steps: Sequence[Step]) -> None:
    """Steps that failed are tried again."""
    for step in steps:
        mark = out / step.output
        if mark.exists() and "failed" in read_json(mark):
            mark.unlink()


def progress_of(study: Study, out: Path, start: float, jobs: int) -> Progress:
    """Look at the marks and the locks in the folder."""
    steps = steps_of(study)
    sizes = work(study)
    done = failed = iterations = timed = 0
    seconds = 0.0
    for step in steps:
        mark = out / step.output
        if mark.exists():
            value = read_json(mark)
            done += 1
            failed += "failed" in value
            iterations += sizes.get(step.title, 0)
            if "failed" not in value and step.verb == "train":
                timed += sizes[step.title]
                seconds += value["seconds"]
    running = tuple(
        step.title for step in steps
        if not (out / step.output).exists() and is_held(out / "locks" / f"{step.title}.lock")
    )  # fmt: skip
    left = (sum(sizes.values()) - iterations) * seconds / timed / jobs if timed else None
    return Progress(done, failed, len(steps), running, left)
