"""Training a solver of a study, and resuming it where a killed step left it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caffe_split.backends.choose import get_backend
from caffe_split.backends.restart import plan_again
from caffe_split.backends.train import alone
from caffe_split.backends.train_plan import NO_CHOICES
from caffe_split.engine.spec.command import Choices
from caffe_split.study import nets
from caffe_split.study.locks import Held
from caffe_split.study.model import Study
from caffe_split.study.processes import crash, run

# The logs of a training, and of the part of one before the split.
TRAINED, FIRST = "train.log", "first.log"


@dataclass(frozen=True)
class Fit:
    """One training: the solver in a folder, up to iteration `end`.

    It starts from its fillers, from `weights`, or goes on from `start`, a snapshot's name without its ending.
    """

    folder: Path
    seed: int
    end: int
    start: str = ""
    weights: str = ""
    solver: str = nets.SOLVER
    log: str = TRAINED


def fit(study: Study, held: Held, what: Fit) -> None:
    """Train to the end. Raises `StepFailedError` where the training ends before.

    Killed and run again, a back end that reads on in the data goes on exactly from its newest whole snapshot. One that
    does not, Caffe, starts the training again. For the same reason the data after the split go on with the former, and
    begin at the first record with the latter; with either, all runs see the same data.
    """
    weights, snapshot = what.weights or None, None
    if what.start and study.schedule == "continue":
        snapshot = f"{what.start}.solverstate"
    elif what.start:
        weights = f"{what.start}.caffemodel"
    takes_choices = not get_backend(study.engine).no_choices
    plan = plan_again(
        what.folder / what.solver,
        engine=study.engine,
        log=what.folder / what.log,
        weights=weights,
        snapshot=snapshot,
        threads=study.threads,
        choices=Choices(study.device, what.seed, study.precision) if takes_choices else NO_CHOICES,
    )
    with alone(plan) as locks:
        status = run(plan.command, plan.environment, plan.log, held, fresh=not plan.append, inherited=locks)
    if status:
        raise crash("the training", status, plan.log)
