"""A training before it starts: all that can be checked, and the command that runs it."""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from caffe_split.backends.choose import backends, get_backend, in_words
from caffe_split.backends.protocol import Backend, NotFoundError, TrainingCommand, TrainingRequest
from caffe_split.backends.settings import SolverSettings, solver_settings
from caffe_split.backends.train_check import check_request
from caffe_split.engine.spec.command import Choices
from caffe_split.errors import CaffeSplitError
from caffe_split.formats.kinds import kind_of
from caffe_split.net.resume import AUTO
from caffe_split.net.snapshots import find_snapshots
from caffe_split.net.training import weights_named
from caffe_split.trainlog.pipeline import looks_like_log

NO_CHOICES = Choices()


@dataclass(frozen=True)
class TrainPlan:
    """A training that has not started. It runs in the current directory.

    engine: the name of the back end; why: why that one, where the user asked for none. log: its log's file, replaced
    unless `append`. program, threads and choices: as they were asked for. force: whether it may replace a log and
    snapshots. begins: the iteration at which it begins; None for that of its newest whole snapshot.
    """

    solver: Path
    settings: SolverSettings
    run: TrainingCommand
    log: Path
    append: bool
    engine: str
    program: str | None = None
    threads: int | None = None
    choices: Choices = NO_CHOICES
    why: str = ""
    force: bool = False
    begins: int | None = 0

    @property
    def command(self) -> list[str]:
        """The words of the command."""
        return self.run.words

    @property
    def environment(self) -> dict[str, str]:
        """All variables of the command's process."""
        return self.run.environment


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
        log: its file, by default train.log beside the solver.
        force: replace a log that holds something, and snapshots of the iterations to come; both are refused without.
        append: continue the log instead.
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
    settings = solver_settings(solver)
    weights = None if weights is None else ",".join(weights_named([weights]))
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
    request = TrainingRequest(Path(solver), weights, snapshot, threads, caffe, choices)
    try:
        backend.require_trainer(caffe)
        run = backend.training(request)
        begins = check_request(request, backend.runs_program)
    except NotFoundError as error:
        raise _with_others(error, backend) from None
    target = Path(log) if log is not None else Path(solver).parent / "train.log"
    if target.is_dir() or not target.parent.is_dir():
        raise CaffeSplitError(f"cannot write the log {target}: expected a file name in a folder that exists")
    plan = TrainPlan(
        solver=Path(solver),
        settings=settings,
        run=run,
        log=target,
        append=append,
        engine=backend.name,
        program=caffe,
        threads=threads,
        choices=choices,
        why=why,
        force=force,
        begins=None if newest else begins,
    )
    check_overwritten(plan)
    return plan


def check_overwritten(plan: TrainPlan) -> None:
    """Raises `CaffeSplitError` where the training would replace a log or snapshots, unless it may (`plan.force`).

    What is no log is never replaced or continued: a wrong --log must not cost the net.
    """
    other = _no_log(plan.log)
    if other:
        raise CaffeSplitError(f"{plan.log}: {other}; --log takes a training log, or a new file")
    if plan.force:
        return
    if plan.log.exists() and plan.log.stat().st_size and not plan.append:
        raise CaffeSplitError(
            f"{plan.log} holds an earlier training; --force replaces it, --append continues it, --log FILE "
            "chooses another"
        )
    if plan.begins is None:
        return
    found = [
        path
        for ending in ("caffemodel", "solverstate")
        for iteration, path in find_snapshots(plan.settings.prefix, ending).items()
        if plan.begins < iteration <= plan.settings.max_iter
    ]
    if found:
        names = ", ".join(map(str, found[:4])) + (f" and {len(found) - 4} more" if len(found) > 4 else "")
        raise CaffeSplitError(
            f"{plan.solver}: the training may overwrite snapshots of an earlier one: {names}. Choose another "
            "snapshot_prefix, move them away, or add --force"
        )


def _no_log(path: Path) -> str:
    """What a file is that is no training log, as a sentence; empty for a log and for nothing."""
    if not path.is_file() or not path.stat().st_size:
        return ""
    found = kind_of(path)
    if found is not None:
        return "" if found.kind == "log" else found.sentence
    # A training that failed at once may have left a log without a line of Caffe, which no content shows to be one.
    return "" if path.suffix == ".log" or looks_like_log(path) else "no line of a training is in it"


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


def resume_command(plan: TrainPlan, state: str) -> str:
    """What to type to go on from a solver state."""
    words = ["caffe-split", "train", str(plan.solver), "--snapshot", state, "--append"]
    if plan.engine != backends()[0].name:
        words += ["--engine", plan.engine, *plan.choices.words()]
    if plan.program is not None:
        words += ["--caffe", plan.program]
    if plan.threads is not None:
        words += ["--threads", str(plan.threads)]
    if plan.log != plan.solver.parent / "train.log":
        words += ["--log", str(plan.log)]
    return shlex.join(words)


def _others(file: str) -> str:
    folder = Path(file).parent
    suffix = "".join(Path(file).suffixes[-1:])
    there = sorted(str(p) for p in folder.glob(f"*{suffix}")) if suffix and folder.is_dir() else []
    return f"; there are: {', '.join(there[:10])}" if there else ""
