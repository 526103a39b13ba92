"""Training by any back end: plan the command, run it, follow its log, stop it cleanly."""

from __future__ import annotations

import os
import re
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol

from caffe_split.backends.choose import backends, get_backend, in_words
from caffe_split.backends.process import Child
from caffe_split.backends.protocol import Backend, NotFoundError, TrainingCommand, TrainingRequest
from caffe_split.backends.settings import SolverSettings, solver_settings
from caffe_split.engine.spec.command import Choices
from caffe_split.errors import CaffeSplitError, expect_path
from caffe_split.files import append_to
from caffe_split.net.resume import AUTO
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.parse import Parser
from caffe_split.trainlog.read import BLOCK

# How long an interrupted training may take for its iteration and its snapshot, in seconds.
GRACE = 300.0
NO_CHOICES = Choices()
_LOOK_EVERY = 0.2


@dataclass(frozen=True)
class TrainPlan:
    """A training that has not started. It runs in the current directory.

    engine: the name of the back end; why: why that one, where the user asked for none. log: its log's file, replaced
    unless `append`. threads and choices: as they were asked for.
    """

    solver: Path
    settings: SolverSettings
    run: TrainingCommand
    log: Path
    append: bool
    engine: str
    threads: int | None = None
    choices: Choices = NO_CHOICES
    why: str = ""

    @property
    def command(self) -> list[str]:
        """The words of the command."""
        return self.run.words

    @property
    def environment(self) -> dict[str, str]:
        """All variables of the command's process."""
        return self.run.environment


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    status: what to exit with. fatal: the line of the log that says why it failed, else empty; line: its number, from 1.
    interrupted: the signal that stopped it. state: the newest solver state that it wrote and that is on disk.
    """

    status: int
    fatal: str
    line: int
    interrupted: int | None
    state: str | None


class Reporter(Protocol):
    """What shows a running training."""

    def update(self, log: TrainingLog) -> None:
        """There is more in the log."""

    def stopping(self) -> None:
        """The interrupt has been passed on."""


def plan_training(
    solver: str | os.PathLike[str],
    *,
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
    """Check all that can be checked before the training starts, and lay out the command.

    Args:
        solver: its file.
        weights: start from these (several: comma-separated).
        snapshot: a solver state to resume from. "auto", where the back end takes it, is the newest whole one, and
            `weights` where there is none.
        log: its file, by default train.log beside the solver. One that holds something is refused without `force`,
            which replaces it, or `append`, which continues it.
        force: see `log`.
        append: see `log`.
        threads: of the processors; by default the back end chooses.
        caffe: the path of the program that trains, for back ends that run one.
        engine: the name of a back end, by default the first that is found here.
        choices: how to train, for back ends that take them.

    Raises:
        CaffeSplitError: something is not there, or does not fit together.
    """
    backend, why = (get_backend(engine), "") if engine is not None else _first_trainer(caffe)
    newest = snapshot == AUTO and not backend.no_choices
    if newest:
        # Where this training is stopped and started again, it is to go on from the same record.
        choices = replace(choices, continue_data=True)
    elif snapshot == AUTO:
        raise CaffeSplitError(f"--snapshot auto is for {_takers()}; give {backend.title} the name of a .solverstate")
    elif weights is not None and snapshot is not None:
        raise CaffeSplitError("give either --weights (start from them) or --snapshot (resume), not both")
    if force and append:
        raise CaffeSplitError("give either --force (replace the log) or --append (continue it), not both")
    settings = solver_settings(solver)
    for name, value in (("weights", weights), ("snapshot", None if newest else snapshot)):
        for file in value.split(",") if value is not None else ():
            if not Path(file).is_file():
                raise CaffeSplitError(f"no {name} file {file}{_others(file)}")
    if caffe is not None and not backend.runs_program:
        raise CaffeSplitError(
            f"--caffe names a program for {_engines([each for each in backends() if each.runs_program])}; leave it out "
            f"with --engine {backend.name}"
        )
    if choices != NO_CHOICES and backend.no_choices:
        raise CaffeSplitError(f"{' '.join(choices.words())}: for {_takers()} only; {backend.no_choices}")
    try:
        run = backend.training(TrainingRequest(Path(solver), weights, snapshot, threads, caffe, choices))
    except NotFoundError as error:
        raise _with_others(error, backend) from None
    target = Path(log) if log is not None else Path(solver).parent / "train.log"
    if target.is_dir() or not target.parent.is_dir():
        raise CaffeSplitError(f"cannot write the log {target}: expected a file name in a folder that exists")
    if target.exists() and target.stat().st_size and not (force or append):
        raise CaffeSplitError(
            f"{target} holds an earlier training; --force replaces it, --append continues it, --log FILE "
            "chooses another"
        )
    return TrainPlan(Path(solver), settings, run, target, append, backend.name, threads, choices, why)


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
    plan = plan_training(
        solver, weights=weights, snapshot=snapshot, log=log, force=force, append=append, engine=engine, choices=choices
    )
    return run_training(plan, Silent())


def _first_trainer(program: str | None) -> tuple[Backend, str]:
    """The back end that trains where none is asked for, and why it is not the most preferred one."""
    preferred, *others = backends()
    try:
        preferred.require_trainer(program)
    except NotFoundError as error:
        for other in others:
            if other.is_there():
                return other, error.short
        raise _with_others(error, preferred) from None
    return preferred, ""


def _with_others(error: NotFoundError, backend: Backend) -> NotFoundError:
    others = [each for each in backends() if each.name != backend.name]
    return NotFoundError(f"{error}, or train with {in_words(others)}")


def _engines(found: Sequence[Backend]) -> str:
    return " or ".join(f"--engine {each.name}" for each in found)


def _takers() -> str:
    """The engines that take `Choices`."""
    return _engines([each for each in backends() if not each.no_choices])


def printable(plan: TrainPlan) -> str:
    """The command as one would type it, with the variables that matter in front of it."""
    variables = [f"{name}={plan.environment[name]}" for name in plan.run.shown]
    return " ".join([*variables, shlex.join(plan.command)])


def reason(plan: TrainPlan, outcome: Outcome) -> str:
    """What the fatal line of the log says to a user, as the back end reads its own log."""
    return get_backend(plan.engine).reason(outcome.fatal)


def run_training(plan: TrainPlan, reporter: Reporter, grace: float = GRACE) -> Outcome:
    """Run a planned training to its end. `grace` is in seconds: how long it may take to stop when interrupted.

    It writes straight into the log file, so it goes on even if this process is killed; what is appended is read here.
    Raises `CaffeSplitError` where the command cannot be started.
    """
    try:
        with append_to(plan.log) as output:
            if not plan.append:
                output.truncate(0)
            start = output.seek(0, os.SEEK_END)
            child = Child(plan.command, plan.environment, output, grace)
    except OSError as error:
        raise CaffeSplitError(f"cannot start {plan.command[0]} into {plan.log}: {error.strerror}") from error
    child.on_interrupt = reporter.stopping
    parser = Parser(year=time.localtime().tm_year)
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
    return Outcome(code, fatal, line, interrupted, latest_state(log))


def latest_state(log: TrainingLog) -> str | None:
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
    if plan.engine != backends()[0].name:
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


def _others(file: str) -> str:
    folder = Path(file).parent
    suffix = "".join(Path(file).suffixes[-1:])
    there = sorted(str(p) for p in folder.glob(f"*{suffix}")) if suffix and folder.is_dir() else []
    return f"; there are: {', '.join(there[:10])}" if there else ""
