"""Training by any back end: its log followed, stopped cleanly, alone on its log and its snapshots."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from caffe_split.backends.choose import get_backend
from caffe_split.backends.process import GRACE, Child
from caffe_split.backends.train_plan import NO_CHOICES, TrainPlan, check_overwritten, plan_training
from caffe_split.engine.spec.command import Choices
from caffe_split.errors import BusyError, CaffeSplitError, expect_path
from caffe_split.files import Staged, locked, staged
from caffe_split.trainlog.messages import SNAPSHOT
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.parse import Parser
from caffe_split.trainlog.text import BLOCK

_LOOK_EVERY = 0.2


@dataclass(frozen=True)
class Outcome:
    """How a training ended.

    status: what to exit with. fatal: the line of the log that says why it failed, else empty; line: its number, from 1.
    interrupted: the signal that stopped it. state: the newest solver state that it wrote and that is on disk. log: the
    file with its lines; another than the plan's where the training did not begin, and so left an earlier log alone.
    """

    status: int
    fatal: str
    line: int
    interrupted: int | None
    state: str | None
    log: Path


class Reporter(Protocol):
    """What shows a running training."""

    def update(self, log: TrainingLog) -> None:
        """There is more in the log."""

    def stopping(self) -> None:
        """The interrupt has been passed on."""


class Silent:
    """A reporter that shows nothing."""

    def update(self, log: TrainingLog) -> None:
        """There is more in the log."""

    def stopping(self) -> None:
        """The interrupt has been passed on."""


@contextlib.contextmanager
def alone(plan: TrainPlan) -> Iterator[list[int]]:
    """Hold a training's log and its snapshot_prefix: file descriptors that its process is to inherit.

    Raises `CaffeSplitError` where another training writes one of them, in this process or any other on this machine.
    """
    with contextlib.ExitStack() as stack:
        held: list[int] = []
        for path, what in ((plan.log, "the log"), (Path(plan.settings.prefix), "snapshots of the prefix")):
            name = Path(os.path.realpath(path))
            try:
                held.append(stack.enter_context(locked(name.with_name(f".{name.name}.training"), path)).fd)
            except BlockingIOError:
                raise BusyError(
                    f"another training is running that writes {what} {path}; wait for its end, or stop it. "
                    "It is never replaced while it runs."
                ) from None
        # Another may have ended since the plan was made.
        check_overwritten(plan)
        yield held


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

    Args:
        solver: its file.
        weights: start from these (several: comma-separated).
        snapshot: a solver state to resume from; "auto", on PyTorch, is the newest whole one, and `weights` where there
            is none.
        log: its file; None: train.log beside the solver.
        force: replace a log that holds something, and snapshots of the iterations to come; both are refused without.
        append: continue the log instead.
        engine: "caffe" or "torch"; None: the first that is here.
        choices: how PyTorch trains: device, seed, precision, processes.

    Ctrl-C ends the training with a snapshot. Returns how it ended: status
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


def run_training(plan: TrainPlan, reporter: Reporter, grace: float = GRACE) -> Outcome:
    """Run a planned training to its end. `grace` is in seconds: how long it may take to stop when interrupted.

    It writes straight into its log, and what is appended is read here. An earlier log stays as it is until the training
    has begun; the log of a training that fails before that goes into LOG.failed. If this process is killed, the
    training is interrupted: it stops with a snapshot.

    Raises `CaffeSplitError` where the command cannot be started, and where another training writes the same files.
    """
    with alone(plan) as held, staged(plan.log, plan.append) as stage:
        try:
            child = Child(plan.command, plan.environment, stage.stream, grace, held)
        except OSError as error:
            raise CaffeSplitError(f"cannot start {plan.command[0]} into {plan.log}: {error.strerror}") from error
        child.on_interrupt = reporter.stopping
        log, status = _follow(plan, stage, child, reporter)
        if _has_begun(log) or (status == 0 and child.received is None):
            stage.settle()
        fatal, line = _reason(log)
        if not fatal and status:
            fatal, line = _last_line(stage.path, stage.start)
        elif fatal:
            line += _lines_before(stage.path, stage.start)
        if not stage.is_settled:
            line -= _lines_before(stage.path, stage.start)
        where = stage.finish()
    if status == 0 and child.received is not None:
        # Done before the interrupt could matter is done; else the caller must not go on as if it were.
        ended = log.runs[-1].state if log.runs else "unfinished"
        status = 0 if ended == "done" else 128 + child.received
    interrupted = child.received if status else None
    code = 128 - status if status < 0 else status
    return Outcome(code, fatal, line, interrupted, latest_state(log), where)


def _follow(plan: TrainPlan, stage: Staged, child: Child, reporter: Reporter) -> tuple[TrainingLog, int]:
    """Read the log until the child has ended; what it says, and the status of the child."""
    parser = Parser(year=time.localtime().tm_year)
    status = None
    with stage.path.open("rb", buffering=0) as stream:
        stream.seek(stage.start)

        def now() -> TrainingLog:
            return parser.log(str(plan.log), os.fstat(stream.fileno()).st_mtime)

        try:
            while status is None:
                status = child.poll(_LOOK_EVERY)
                if _read_on(stream.read, parser):
                    log = now()
                    if _has_begun(log):
                        stage.settle()
                    reporter.update(log)
        finally:
            child.close()
        parser.finish()
        return now(), status


def _has_begun(log: TrainingLog) -> bool:
    """Whether the training has done an iteration or a test, or written a snapshot."""
    return any(run.last_iteration >= 0 or next(iter(run.of_kind("snapshot")), None) is not None for run in log.runs)


def latest_state(log: TrainingLog) -> str | None:
    """The newest solver state that this training wrote and that is on disk."""
    written = []
    for event in log.events:
        found = SNAPSHOT.match(event.text.encode()) if event.kind == "snapshot" else None
        path = os.fsdecode(found["path"]) if found else ""
        if ".solverstate" in path and Path(path).is_file():
            written.append(path)
    return written[-1] if written else None


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


def reason_of(plan: TrainPlan, outcome: Outcome) -> str:
    """What the fatal line of the log says to a user, as the back end reads its own log."""
    return get_backend(plan.engine).reason(outcome.fatal)
