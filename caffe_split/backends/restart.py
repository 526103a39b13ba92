"""A training that was killed, planned again so that it ends as if it had not been."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from caffe_split.backends.choose import get_backend
from caffe_split.backends.train_plan import NO_CHOICES, TrainPlan, plan_training
from caffe_split.engine.spec.command import Choices
from caffe_split.net.resume import newest_pair
from caffe_split.net.snapshots import find_snapshots
from caffe_split.net.training import open_training


def plan_again(
    solver: Path,
    *,
    engine: str,
    log: Path,
    weights: str | None = None,
    snapshot: str | None = None,
    threads: int | None = None,
    choices: Choices = NO_CHOICES,
) -> TrainPlan:
    """Plan a training of which an earlier start may have left a part.

    A back end that continues its data where they stood goes on exactly from its newest whole snapshot. Caffe starts
    the training again, its log replaced: resumed, it reads its data from the first record. `weights` or `snapshot` is
    what a fresh start begins with. Raises `CaffeSplitError` as `plan_training` does.
    """
    resumed = False
    if not get_backend(engine).no_choices:
        choices = replace(choices, continue_data=bool(snapshot))
        newest = _newest(solver)
        if newest is not None and newest != snapshot:
            weights, snapshot, resumed = None, newest, True
            choices = replace(choices, continue_data=True)
    return plan_training(
        solver,
        weights=weights,
        snapshot=snapshot,
        log=str(log),
        force=True,
        append=resumed,
        threads=threads,
        engine=engine,
        choices=choices,
    )


def _newest(solver: Path) -> str | None:
    """The newest whole solver state that an earlier start of this training left."""
    prefix = open_training(solver).prefix
    if prefix is None or not find_snapshots(prefix, "solverstate"):
        return None
    found = newest_pair(prefix, lambda _: None)
    return None if found is None else str(found)
