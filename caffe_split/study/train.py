"""Training a solver of a study, and resuming it where a killed step left it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caffe_split.backends.train import alone
from caffe_split.backends.train_plan import plan_training
from caffe_split.engine.spec.command import Choices
from caffe_split.formats import prototxt
from caffe_split.net.resume import newest_pair
from caffe_split.net.training import find_snapshots
from caffe_split.study import nets
from caffe_split.study.locks import Held
from caffe_split.study.model import Study
from caffe_split.study.processes import crash, run

TRAINED = "train.log"


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

    Killed and run again, the torch engine goes on exactly from its newest whole snapshot. Caffe starts the training
    again: a resumed Caffe reads its data from the first record. For the same reason the data after the split begin at
    the first record with Caffe, and go on with the torch engine; with either engine all runs see the same data.
    """
    weights, snapshot, choices = what.weights or None, None, Choices()
    resumed = False
    if what.start and study.schedule == "continue":
        snapshot = f"{what.start}.solverstate"
    elif what.start:
        weights = f"{what.start}.caffemodel"
    if study.engine == "torch":
        choices = Choices(study.device, what.seed, study.precision, continue_data=bool(snapshot))
        newest = _newest(what)
        if newest is not None and newest != snapshot:
            weights, snapshot, resumed = None, newest, True
            choices = Choices(study.device, what.seed, study.precision, continue_data=True)
    log = what.folder / what.log
    plan = plan_training(
        str(what.folder / what.solver),
        weights=weights,
        snapshot=snapshot,
        log=str(log),
        force=True,
        append=resumed,
        threads=study.threads,
        engine=study.engine,
        choices=choices,
    )
    with alone(plan) as locks:
        status = run(plan.command, plan.environment, plan.log, held, fresh=not resumed, inherited=locks)
    if status:
        raise crash("the training", status, plan.log)


def _newest(what: Fit) -> str | None:
    """The newest whole solver state that an earlier, killed start of this training left."""
    prefix = str(prototxt.read(what.folder / what.solver).get("snapshot_prefix"))
    if not find_snapshots(prefix, "solverstate"):
        return None
    found = newest_pair(prefix, lambda _: None)
    return None if found is None else str(found)
