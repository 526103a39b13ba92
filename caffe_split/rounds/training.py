"""Training and testing one run of a loop, to the end or to a reason why not."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caffe_split.backends.restart import plan_again
from caffe_split.backends.train import Outcome, reason_of, run_training
from caffe_split.backends.train_plan import TrainPlan
from caffe_split.derivation.solver import testing_solver
from caffe_split.errors import BusyError, CaffeSplitError
from caffe_split.files import write_atomic
from caffe_split.formats.weights.solverstate import read_solverstate
from caffe_split.net.training import open_training
from caffe_split.rounds.progress import LoopProgress, Silent
from caffe_split.study.accuracies import accuracies
from caffe_split.trainlog.model import TrainingLog
from caffe_split.trainlog.read import read_log
from caffe_split.trainlog.trust import stretches

LOG = "train.log"
# How long what a killed loop left behind may take to end, in seconds.
PATIENCE = 60.0


class DivergedError(Exception):
    """A training whose loss is no longer finite, and from where on."""


@dataclass(frozen=True)
class Runner:
    """What trains and tests: the back end `engine`, with `threads` (None: it chooses), shown by `progress`."""

    engine: str
    threads: int | None
    progress: LoopProgress

    def train(self, name: str, solver: Path, max_iter: int, state: Path | None = None) -> dict[str, Any]:
        """Train a solver to its end and read its log: best test accuracy, its iteration, the seconds it took.

        `state` is the solver state to go on from, None for a training from its start. Raises
        `DivergedError`, `KeyboardInterrupt` after Ctrl-C, and `CaffeSplitError` where it fails otherwise.
        """
        log = solver.parent / LOG
        begins = 0 if state is None else read_solverstate(state).iter
        snapshot = None if state is None else str(state)
        plan = plan_again(solver, engine=self.engine, log=log, snapshot=snapshot, threads=self.threads)
        self.progress.start(name, max_iter, begins)
        outcome = _run(plan, self.progress)
        if outcome.interrupted is not None:
            raise KeyboardInterrupt
        read = read_log(log)
        diverged = diverged_at(read)
        if diverged is not None:
            raise DivergedError(f"its loss is not finite from iteration {diverged} on")
        if outcome.status:
            raise CaffeSplitError(f"the training of {name} failed: {_why(plan, outcome, log)}")
        self.progress.end()
        found = accuracies(log)
        seconds = sum(run.seconds for run in read.runs if not math.isnan(run.seconds))
        return {"best": found.best, "best_iteration": found.best_iteration, "seconds": seconds}

    def test(self, solver: Path, net: Path, weights: Path, folder: Path) -> float:
        """The test accuracy of `net` with `weights`, as `solver` tests it; its log is test_NET.log in `folder`."""
        document = open_training(solver).solver
        assert document is not None
        if not net.is_file():
            raise CaffeSplitError(
                f"{solver}: its net stands in the solver itself; to test weights that are trained already it has to be "
                f"a file. Write what is within net_param {{ ... }} into {net}, and name that by `net`."
            )
        stem = f"test_{net.stem}"
        path = folder / f"{stem}.prototxt"
        write_atomic(path, testing_solver(document, net, str(folder / stem)).to_bytes())
        log = folder / f"{stem}.log"
        plan = plan_again(path, engine=self.engine, log=log, weights=str(weights), threads=self.threads)
        outcome = _run(plan, LoopProgress(Silent(), 0, 0))
        if outcome.interrupted is not None:
            raise KeyboardInterrupt
        if outcome.status:
            raise CaffeSplitError(f"the test of {net} with {weights} failed: {_why(plan, outcome, log)}")
        return accuracies(log).final


def _run(plan: TrainPlan, reporter: LoopProgress) -> Outcome:
    """Run a training. One that a killed loop has left behind is ending with a snapshot: it is waited for."""
    until = time.monotonic() + PATIENCE
    while True:
        try:
            return run_training(plan, reporter)
        except BusyError:
            if time.monotonic() > until:
                raise
            time.sleep(0.2)


def diverged_at(log: TrainingLog) -> int | None:
    """The iteration from which on no loss of the training is finite; None where the last one is, or none is shown."""
    for run in reversed(log.runs):
        stretch = next((each for each in stretches(run) if each.stop is None and not each.test), None)
        if stretch is not None or len(run.displays):
            return stretch.start if stretch else None
    return None


def _why(plan: TrainPlan, outcome: Outcome, log: Path) -> str:
    return f"{log}:{outcome.line}: {reason_of(plan, outcome)}" if outcome.fatal else f"see the end of {log}"
