"""Train with the real Caffe: plan the command, run it, follow its log, stop it cleanly."""

from __future__ import annotations

import os
import re
import shlex
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from caffe_split.backends.caffe.find import find_caffe
from caffe_split.backends.choose import is_there
from caffe_split.backends.process import Child
from caffe_split.backends.settings import SolverSettings, solver_settings
from caffe_split.engine.spec.command import Choices, command_for
from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.net.resume import AUTO
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.parse import BLOCK, Parser

# How long an interrupted Caffe may take for its iteration and its snapshot, in seconds.
GRACE = 300.0
NO_CHOICES = Choices()
_LOOK_EVERY = 0.2


@dataclass(frozen=True)
class TrainPlan:
    """One `caffe train`, not yet started. It runs in the current directory."""

    solver: Path
    settings: SolverSettings
    command: list[str]
    environment: dict[str, str]
    log: Path
    append: bool
    engine: str = "caffe"
    threads: int | None = None
    choices: Choices = NO_CHOICES
    # Why that engine, where nobody asked for it.
    why: str = ""


@dataclass(frozen=True)
class Outcome:
    """How it ended. status: what to exit with. fatal: the line of the log that says why, or an empty text.
    line: where it stands, from 1. interrupted: the signal that stopped it. state: the newest solver state
    on disk.
    """

    status: int
    fatal: str
    line: int
    interrupted: int | None
    state: str | None


class Reporter(Protocol):
    """Who shows a running training."""

    def update(self, log: TrainingLog) -> None:
        """There is more in the log."""

    def stopping(self) -> None:
        """The interrupt has been passed on."""


def plan_training(
    solver: str | os.PathLike[str],
    weights: str | None = None,
    snapshot: str | None = None,
    log: str | None = None,
    force: bool = False,
    append: bool = False,
    threads: int | None = None,
    caffe: str | None = None,
    engine: str | None = None,
    choices: Choices = NO_CHOICES,
) -> TrainPlan:
    """Check everything that can be checked before Caffe starts, and lay out the command.

    weights: start from these (several: comma-separated). snapshot: a solverstate to resume from, with the torch
    engine also "auto" for the newest whole one, or else `weights`. log: default train.log beside the solver; one that
    holds something is replaced only with `force`, continued only with `append`. threads: of OpenBLAS; None means 1
    unless OPENBLAS_NUM_THREADS says otherwise. engine: "caffe", or "torch" for the same training on PyTorch, which
    alone takes `choices`; by default Caffe where a built one is found, else PyTorch where it is installed.
    CaffeSplitError: what does not fit together or is not there.
    """
    why = ""
    if engine is None:
        engine, why = _engine(caffe)
    newest = engine == "torch" and snapshot == AUTO
    if newest:
        # Where it is stopped, it is to go on likewise.
        choices = replace(choices, continue_data=True)
    elif snapshot == AUTO:
        raise CaffeSplitError("--snapshot auto is for --engine torch; give Caffe the name of a .solverstate")
    elif weights is not None and snapshot is not None:
        raise CaffeSplitError("give either --weights (start from them) or --snapshot (resume), not both")
    if force and append:
        raise CaffeSplitError("give either --force (replace the log) or --append (continue it), not both")
    settings = solver_settings(solver)
    for name, value in (("weights", weights), ("snapshot", None if newest else snapshot)):
        for file in value.split(",") if value is not None else ():
            if not Path(file).is_file():
                raise CaffeSplitError(f"no {name} file {file}{_others(file)}")
    if engine == "torch":
        if caffe is not None:
            raise CaffeSplitError("--caffe names a program for --engine caffe; leave it out with --engine torch")
        command = command_for(Path(solver), weights, snapshot, threads, choices)
    else:
        if choices != NO_CHOICES:
            raise CaffeSplitError(
                f"{' '.join(choices.words())}: for --engine torch only; Caffe has one precision, and takes the device "
                "and the seed from the solver"
            )
        command = [str(find_caffe(caffe)), "train", "-solver", str(solver)]
        if weights is not None:
            command += ["-weights", weights]
        if snapshot is not None:
            command += ["-snapshot", snapshot]
    target = Path(log) if log is not None else Path(solver).parent / "train.log"
    if target.is_dir() or not target.parent.is_dir():
        raise CaffeSplitError(f"cannot write the log {target}: expected a file name in a folder that exists")
    if target.exists() and target.stat().st_size and not (force or append):
        raise CaffeSplitError(
            f"{target} holds an earlier training; --force replaces it, --append continues it, --log FILE "
            "chooses another"
        )
    environment = _torch_environment() if engine == "torch" else _environment(threads)
    return TrainPlan(Path(solver), settings, command, environment, target, append, engine, threads, choices, why)


class Silent:
    """A reporter that shows nothing."""

    def update(self, log: TrainingLog) -> None:
        """There is more in the log."""

    def stopping(self) -> None:
        """The interrupt has been passed on."""


def train(
    solver: str | os.PathLike[str],
    *,
    weights: str | None = None,
    snapshot: str | None = None,
    log: str | None = None,
    force: bool = False,
    append: bool = False,
    engine: str | None = None,
    choices: Choices = NO_CHOICES,
) -> Outcome:
    """Train a solver to its end, by the built Caffe or by PyTorch, in the current directory; its log is a file.

    The arguments are those of `plan_training`. Ctrl-C ends the training with a snapshot. Returns how it ended: status
    0 where it is done. Raises `CaffeSplitError` for what does not fit together or is not there.

    >>> import os, tempfile
    >>> import caffe_split as cs
    >>> folder = tempfile.mkdtemp()
    >>> net, solver = os.path.join(folder, "net.prototxt"), os.path.join(folder, "solver.prototxt")
    >>> with open(net, "w") as stream:
    ...     _ = stream.write('''
    ... layer { name: "data" type: "DummyData" top: "data" top: "label"
    ...         dummy_data_param { shape { dim: 2 dim: 3 } shape { dim: 2 } } }
    ... layer { name: "ip" type: "InnerProduct" bottom: "data" top: "ip" inner_product_param { num_output: 4 } }
    ... layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }''')
    >>> with open(solver, "w") as stream:
    ...     _ = stream.write(f'''net: "{net}" base_lr: 0.1 lr_policy: "fixed" max_iter: 2 display: 1
    ...         solver_mode: CPU snapshot_prefix: "{folder}/net" ''')
    >>> outcome = cs.train(solver)
    >>> outcome.status, cs.read_log(os.path.join(folder, "train.log")).runs[0].state
    (0, 'done')
    """
    expect_path(solver, "a solver")
    plan = plan_training(solver, weights, snapshot, log, force=force, append=append, engine=engine, choices=choices)
    return run_training(plan, Silent())


def _engine(caffe: str | None) -> tuple[str, str]:
    """The engine that trains where none is asked for, and why it is not Caffe."""
    try:
        find_caffe(caffe)
    except CaffeSplitError:
        if caffe is None and is_there("torch"):
            return "torch", "no built Caffe is found here"
        raise
    return "caffe", ""


def printable(plan: TrainPlan) -> str:
    """The command as one would type it, with what we add to the environment."""
    if plan.engine == "torch":
        return shlex.join(plan.command)
    threads = plan.environment["OPENBLAS_NUM_THREADS"]
    return f"OPENBLAS_NUM_THREADS={threads} {shlex.join(plan.command)}"


def run_training(plan: TrainPlan, reporter: Reporter, grace: float = GRACE) -> Outcome:
    """Run a planned training to its end.

    Caffe writes straight into the log file, so it goes on even if we are killed; we read what is appended.
    """
    try:
        with plan.log.open("ab" if plan.append else "wb") as output:
            start = output.seek(0, os.SEEK_END)
            child = Child(plan.command, plan.environment, output, grace)
    except OSError as error:
        raise CaffeSplitError(f"cannot start {plan.command[0]} into {plan.log}: {error.strerror}") from error
    child.on_interrupt = reporter.stopping
    parser = Parser(year=_year())
    with plan.log.open("rb", buffering=0) as stream:
        stream.seek(start)
        status = None
        try:
            while status is None:
                status = child.poll(_LOOK_EVERY)
                if _read_on(stream.read, parser):
                    reporter.update(parser.log(str(plan.log), plan.log.stat().st_mtime))
        finally:
            child.close()
    parser.finish()
    log = parser.log(str(plan.log), plan.log.stat().st_mtime)
    fatal, line = _reason(log)
    if fatal:
        line += _lines_before(plan.log, start)
    elif status:
        fatal, line = _last_line(plan.log, start)
    if status == 0 and child.received is not None:
        # Done before the interrupt could matter is done; else the caller must not go on as if it were.
        ended = log.runs[-1].state if log.runs else "unfinished"
        status = 0 if ended == "done" else 128 + child.received
    interrupted = child.received if status else None
    code = 128 - status if status < 0 else status
    return Outcome(code, fatal, line, interrupted, latest_state(log, plan.settings))


def latest_state(log: TrainingLog, settings: SolverSettings) -> str | None:
    """The newest solver state that this training wrote and that is on disk."""
    written = []
    for event in log.events:
        if event.kind == "snapshot":
            stem = re.search(r"(\S+_iter_\d+)\.(solverstate(?:\.h5)?)", event.text)
            if stem and Path(stem[0]).is_file():
                written.append(stem[0])
    return written[-1] if written else None


def resume_command(plan: TrainPlan, state: str) -> str:
    """What to type to go on from a solver state."""
    words = ["caffe-split", "train", str(plan.solver), "--snapshot", state, "--append"]
    if plan.engine != "caffe":
        words += ["--engine", plan.engine, *plan.choices.words()]
    if plan.threads is not None:
        words += ["--threads", str(plan.threads)]
    if plan.log != plan.solver.parent / "train.log":
        words += ["--log", str(plan.log)]
    return shlex.join(words)


def _read_on(read: Callable[[int], bytes], parser: Parser) -> bool:
    more = False
    while block := read(BLOCK):
        parser.feed(block)
        more = True
    return more


def _reason(log: TrainingLog) -> tuple[str, int]:
    for run in reversed(log.runs):
        for event in run.of_kind("fatal", "signal"):
            return event.text, event.line
    return "", 0


def _last_line(path: Path, start: int) -> tuple[str, int]:
    """What a program says that ends before it can log, e.g. that a shared library is missing."""
    with path.open("rb") as stream:
        stream.seek(max(start, path.stat().st_size - 4096))
        text = stream.read().strip().decode("utf-8", "backslashreplace")
    return text.splitlines()[-1] if text else "", _lines_before(path, path.stat().st_size)


def _lines_before(path: Path, end: int) -> int:
    count = 0
    with path.open("rb") as stream:
        while end > 0 and (block := stream.read(min(BLOCK, end))):
            count += block.count(b"\n")
            end -= len(block)
    return count


def _environment(threads: int | None) -> dict[str, str]:
    environment = dict(os.environ)
    if threads is not None:
        environment["OPENBLAS_NUM_THREADS"] = str(threads)
    # A second thread gains nothing in this Caffe, and leaves no room for a training beside this one.
    environment.setdefault("OPENBLAS_NUM_THREADS", "1")
    # Our log is the log: no second copy in the temporary folder.
    if not any(name.lower() in ("glog_log_dir", "glog_alsologtostderr") for name in environment):
        environment.setdefault("GLOG_logtostderr", "1")
    return environment


def _torch_environment() -> dict[str, str]:
    environment = dict(os.environ)
    # Threads that wait by spinning stand in each other's way as soon as the machine has other work: on two cores
    # shared with other programs a training was 14 times slower so.
    environment.setdefault("OMP_WAIT_POLICY", "passive")
    return environment


def _others(file: str) -> str:
    folder = Path(file).parent
    suffix = "".join(Path(file).suffixes[-1:])
    there = sorted(str(p) for p in folder.glob(f"*{suffix}")) if suffix and folder.is_dir() else []
    return f"; there are: {', '.join(there[:10])}" if there else ""


def _year() -> int:
    import time

    return time.localtime().tm_year
