"""How long a loop takes: a few iterations of its nets are timed, and its steps are added up.

What is timed is processor time, which other programs hardly change; the clock says how busy the machine is.
"""

from __future__ import annotations

import math
import resource
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from caffe_split.backends.train import Silent, reason_of, run_training
from caffe_split.backends.train_plan import plan_training
from caffe_split.derivation.after_split import BATCHES, POINTS
from caffe_split.derivation.choice import BY_TPM
from caffe_split.derivation.choose import candidates
from caffe_split.derivation.make import derive
from caffe_split.derivation.solver import derived_solver, testing_solver
from caffe_split.errors import CaffeSplitError
from caffe_split.files import make_folder, scratch, write_atomic
from caffe_split.formats import prototxt
from caffe_split.net.training import Training, open_training
from caffe_split.rounds.loop import Loop
from caffe_split.rounds.plan import BASELINE, LoopStep
from caffe_split.rounds.training import LOG
from caffe_split.trainlog.show import duration

# Iterations of the first timing, and the seconds of processor time that a timing is to take.
FIRST, ENOUGH = 4, 2.0
# Iterations that no timing exceeds, and how many times as many as before the next one has: on a busy machine a longer
# training may seem to have taken no more time.
MOST, GROWTH = 2000, 8
# Seconds of the loop's own trainings from which on they say better than a timing how busy the machine is.
KNOWN = 20.0
# How much longer by the clock makes a machine a busy one.
BUSY = 1.25


@dataclass(frozen=True)
class Pace:
    """What a net's training takes, in seconds of processor time: to start, each iteration, each test; and to derive."""

    start: float
    iteration: float
    test: float
    derive: float = 0.0

    def training(self, iterations: int, tests: int) -> float:
        """A whole training, and the test of its last snapshot."""
        return 2 * self.start + iterations * self.iteration + (tests + 1) * self.test


@dataclass(frozen=True)
class Estimate:
    """Seconds that are left: while the machine is as busy as it is `now`, and where nothing else runs on it."""

    now: float
    idle: float

    def __str__(self) -> str:
        if self.now < BUSY * self.idle:
            return f"about {duration(self.now)}"
        return f"about {duration(self.now)} as busy as this machine is now, {duration(self.idle)} on an idle one"


def estimate(loop: Loop) -> Estimate:
    """How long the steps take that are left.

    The baseline and each round's net, split at random from what a few iterations trained, are timed in a temporary
    folder. Where trainings of the loop have ended, their time by the clock says how busy the machine is, otherwise that
    of the timings. Raises `CaffeSplitError` where the nets cannot be trained.
    """
    left = loop.left()
    if not left:
        return Estimate(0.0, 0.0)
    timer = Timer(loop)
    paces = timer.paces()

    def cost(step: LoopStep) -> float:
        return _cost(loop, step, paces[loop.rounds_before(step)])

    seconds, factor = sum(map(cost, left)), timer.factor
    ended = [(step, loop.folder.result(step.title) or {}) for step in loop.steps if step.verb == "train"]
    ended = [(step, result) for step, result in ended if "seconds" in result]
    real = sum(result["seconds"] for _, result in ended)
    if real > KNOWN:
        factor = real / sum(cost(step) for step, _ in ended)
    # Several threads take less time by the clock than on the processors.
    return Estimate(seconds * factor, seconds * min(factor, 1.0))


def _cost(loop: Loop, step: LoopStep, pace: Pace) -> float:
    """The processor time of a step."""
    solver = loop.start.training.solver
    assert solver is not None
    if step.verb == "train":
        if not step.iterations:
            return pace.start + pace.test
        # A batch of gradients takes about as long as an iteration.
        followed = pace.start + POINTS * BATCHES * pace.iteration if step.splits and step.parent else 0.0
        return pace.training(step.iterations, step.iterations // int(solver.get("test_interval")) + 1) + followed
    if step.verb == "fold":  # compared and tested, too
        return pace.derive + 2 * pace.start + pace.test
    if not step.splits:
        return pace.derive
    scored = pace.start + loop.options.derive.batches * pace.iteration if loop.needs_saliency else 0.0
    return pace.derive + pace.start + scored


def pace_of(run: Callable[[int], float]) -> tuple[float, float]:
    """Seconds to start and of an iteration; `run` gives the processor time of a training of that many iterations.

    Its trainings become longer until they tell, but only by a factor each and never beyond `MOST` iterations.
    """
    first = run(FIRST)
    count, second = FIRST, first
    while second - first < ENOUGH and count < MOST:
        # A guess at what takes long enough; the first one includes the start, and is too short for a small net.
        each = (second - first) / (count - FIRST) if count > FIRST else first / FIRST
        wanted = max(math.ceil(1.2 * ENOUGH / max(each, 1e-6)), 1 if count == FIRST else count)
        count = min(FIRST + min(wanted, GROWTH * count), MOST)
        second = run(count)
    iteration = max(second - first, 0.0) / (count - FIRST)
    return max(first - FIRST * iteration, 0.0), iteration


class Timer:
    """Times the nets of a loop by their processor time; `factor` is how much longer all of it took by the clock."""

    def __init__(self, loop: Loop) -> None:
        self._loop = loop
        self._processor = self._clock = 0.0

    @property
    def factor(self) -> float:
        """Seconds by the clock per second of processor time."""
        return self._clock / self._processor

    def paces(self) -> list[Pace]:
        """The pace of the baseline, and of each round's net."""
        start, options = self._loop.start, self._loop.options
        with scratch() as place:
            training = start.training
            if start.watched:
                training = start.watch.watching(training)
            solver = _written(training, place / BASELINE, start.weights)
            paces = [self._timed(solver)]
            for number in range(options.rounds):
                parent = open_training(solver)
                weights = max(parent.snapshots().items())[1]
                out = place / f"round{number}"
                before = _processor_time()
                layers = _some(parent, options.layers, number)
                how = replace(options.derive, choose_by=BY_TPM, partition=_by_chance(options.derive.partition))
                how = replace(how, schedule="restart", engine=options.engine)
                derive(parent, weights=weights, layers=layers, options=how, out=out).write()
                spent = _processor_time() - before
                solver = out / solver.name
                paces.append(replace(self._timed(solver), derive=spent))
        return paces

    def _timed(self, solver: Path) -> Pace:
        """Time two trainings of different lengths without tests, and one test.

        The difference of the trainings gives the time per iteration; from that follow those of the start and the test.
        """
        start, iteration = pace_of(lambda count: self._short(solver, count))
        return Pace(start, iteration, max(self._test(solver) - start, 0.0))

    def _short(self, solver: Path, count: int) -> float:
        """The processor time of a whole training of `count` iterations."""
        document = open_training(solver).solver
        assert document is not None
        settings = {"max_iter": count, "display": 0, "test_interval": 10**9, "test_initialization": False}
        for key, value in {**settings, "snapshot": 0, "snapshot_after_train": True}.items():
            document.set(key, value)
        return self._run(document, solver)

    def _test(self, solver: Path) -> float:
        """The processor time of one test, the start included."""
        training = open_training(solver)
        assert training.solver is not None
        return self._run(testing_solver(training.solver, training.net_path, str(solver.parent / "test")), solver)

    def _run(self, document: prototxt.Document, solver: Path) -> float:
        """Train a changed copy of a solver beside it; returns the processor time that it took."""
        path = solver.with_name(f"timed_{solver.name}")
        write_atomic(path, document.to_bytes())
        plan = plan_training(
            path,
            log=str(solver.parent / LOG),
            force=True,
            threads=self._loop.options.threads,
            engine=self._loop.options.engine,
        )
        since, before = time.monotonic(), _processor_time()
        outcome = run_training(plan, Silent())
        if outcome.interrupted is not None:
            raise KeyboardInterrupt
        if outcome.status:
            raise CaffeSplitError(f"{solver} does not train: {reason_of(plan, outcome) or 'no reason given'}")
        spent = _processor_time() - before
        self._processor, self._clock = self._processor + spent, self._clock + time.monotonic() - since
        return spent


def _processor_time() -> float:
    """Seconds of processor time of this process and of its children that have ended."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(each.ru_utime + each.ru_stime for each in used)


def _by_chance(partition: str) -> str:
    """A partition that needs no scores and costs as much: a layer that is not divided stays so."""
    return partition if partition == "all" else "random:0"


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
    names = [layer.name for layer in candidates(training.net, state=training.state)]
    count = min(layers or len(names), len(names))
    return [str(name) for name in np.random.default_rng(seed).choice(names, count, replace=False)]
