"""How long a loop takes: a few iterations of its nets are timed, and its steps are added up."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caffe_split.backends.train import Silent, reason_of, run_training
from caffe_split.backends.train_plan import plan_training
from caffe_split.derivation.choice import BY_TPM
from caffe_split.derivation.choose import candidates
from caffe_split.derivation.make import derive
from caffe_split.derivation.solver import derived_solver, testing_solver
from caffe_split.errors import CaffeSplitError
from caffe_split.files import make_folder, scratch, write_atomic
from caffe_split.net.training import Training, open_training
from caffe_split.rounds.loop import Loop
from caffe_split.rounds.plan import BASELINE
from caffe_split.rounds.training import LOG
from caffe_split.tpm.attach import instrument
from caffe_split.tpm.layers import watchers
from caffe_split.trainlog.read import read_log

# Iterations of the first timing, and the seconds that a timing is to take.
FIRST, ENOUGH = 20, 2.0


@dataclass(frozen=True)
class Pace:
    """What a net's training takes, in seconds: to start, each iteration, each test; and to derive the net."""

    start: float
    iteration: float
    test: float
    derive: float = 0.0

    def training(self, iterations: int, tests: int) -> float:
        """A whole training, and the test of its last snapshot."""
        return 2 * self.start + iterations * self.iteration + (tests + 1) * self.test


def estimate(loop: Loop) -> float:
    """Seconds that the steps take that are left, as this machine is now.

    The baseline and each round's net, split at random from what a few iterations trained, are timed in a temporary
    folder. Raises `CaffeSplitError` where they cannot be trained.
    """
    left = loop.left()
    if not left:
        return 0.0
    solver = loop.start.training.solver
    assert solver is not None
    every = int(solver.get("test_interval"))
    paces = _paces(loop)
    seconds = 0.0
    for step in left:
        pace = paces[loop.rounds_before(step)]
        if step.verb == "train":
            tests = step.iterations // every + 1 if step.iterations else 0
            seconds += pace.training(step.iterations, tests) if step.iterations else pace.start + pace.test
        elif step.verb == "derive":
            seconds += pace.derive + pace.start
        else:  # folded, compared and tested
            seconds += pace.derive + 2 * pace.start + pace.test
    return seconds


def _paces(loop: Loop) -> list[Pace]:
    """The pace of the baseline, and of each round's net."""
    start, options = loop.start, loop.options
    with scratch() as place:
        folder = place / BASELINE
        training = start.training
        if start.watched and not watchers(training.net):
            training = instrument(training, start.watch.windows, interval=start.watch.interval).training
        solver = _written(training, folder, start.weights)
        paces = [_timed(solver, loop)]
        for number in range(options.rounds):
            parent = open_training(solver)
            weights = max(parent.snapshots().items())[1]
            out = place / f"round{number}"
            since = time.monotonic()
            layers = _some(parent, options.layers, number)
            how = replace(options.derive, choose_by=BY_TPM, partition="random:0", engine=options.engine)
            derive(parent, weights=weights, layers=layers, options=how, out=out).write()
            spent = time.monotonic() - since
            solver = out / solver.name
            paces.append(replace(_timed(solver, loop), derive=spent))
    return paces


def _written(training: Training, folder: Path, weights: Path | None) -> Path:
    """The training's net and solver in a folder; returns the solver's path."""
    solver, _, _ = derived_solver(training, folder)
    solver.remove("weights")
    if weights is not None:
        solver.add("weights", str(weights))
    make_folder(folder)
    assert training.solver_path is not None
    path = folder / training.solver_path.name
    write_atomic(folder / training.net_path.name, training.net.to_bytes())
    write_atomic(path, solver.to_bytes())
    return path


def _some(training: Training, layers: int | tuple[str, ...] | None, seed: int) -> list[str]:
    """Layers to split: the given ones, or as many at random."""
    if isinstance(layers, tuple):
        return list(layers)
    names = [layer.name for layer in candidates(training.net)]
    count = min(layers or len(names), len(names))
    return [str(name) for name in np.random.default_rng(seed).choice(names, count, replace=False)]


def _timed(solver: Path, loop: Loop) -> Pace:
    """Time a training without its tests: a first one tells how many iterations take long enough."""
    count, each, spent = FIRST, 0.0, 0.0
    for _ in range(2):
        spent, each = _short(solver, count, loop)
        wanted = math.ceil(ENOUGH / max(each, 1e-6))
        if wanted <= count:
            break
        count = wanted
    start = max(spent - count * each, 0.0)
    return Pace(start, each, max(_test(solver, loop) - start, 0.0))


def _short(solver: Path, count: int, loop: Loop) -> tuple[float, float]:
    """The seconds of a whole training of `count` iterations, and of each iteration in its second half."""
    document = open_training(solver).solver
    assert document is not None
    settings = {"max_iter": count, "display": max(count // 4, 1), "test_interval": 10**9, "test_initialization": False}
    for key, value in {**settings, "snapshot": 0, "snapshot_after_train": True}.items():
        document.set(key, value)
    seconds = _run(document.to_bytes(), solver, loop)
    shown = read_log(solver.parent / LOG).table("displays")
    half = shown.seconds[len(shown) // 2 - 1 :]
    steps = int(shown.iteration[-1] - shown.iteration[len(shown) // 2 - 1])
    return seconds, float(half[-1] - half[0]) / steps


def _test(solver: Path, loop: Loop) -> float:
    """The seconds of one test, the start included."""
    training = open_training(solver)
    assert training.solver is not None
    return _run(
        testing_solver(training.solver, training.net_path, str(solver.parent / "test")).to_bytes(), solver, loop
    )


def _run(text: bytes, solver: Path, loop: Loop) -> float:
    """Train a changed copy of a solver beside it; returns the seconds that it took."""
    path = solver.with_name(f"timed_{solver.name}")
    write_atomic(path, text)
    plan = plan_training(
        path,
        log=str(solver.parent / LOG),
        force=True,
        threads=loop.options.threads,
        engine=loop.options.engine,
    )
    since = time.monotonic()
    outcome = run_training(plan, Silent())
    if outcome.interrupted is not None:
        raise KeyboardInterrupt
    if outcome.status:
        raise CaffeSplitError(f"{solver} does not train: {reason_of(plan, outcome) or 'no reason given'}")
    return time.monotonic() - since
