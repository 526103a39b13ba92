"""How long a study takes: the iterations of its steps, the seconds per iteration, and those that a step starts with."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import scratch
from caffe_split.study import nets
from caffe_split.study.checks import check_folder, check_same, inputs_of
from caffe_split.study.locks import holding
from caffe_split.study.model import Study
from caffe_split.study.paths import made
from caffe_split.study.plan import Verb, stage_of, steps_of
from caffe_split.study.processes import StepFailedError
from caffe_split.study.results import read_mark
from caffe_split.study.train import Fit, fit
from caffe_split.trainlog.read import read_log
from caffe_split.trainlog.show import duration

# How many programs a step starts that load a net: a fold tests the net before and after.
_STARTS: Mapping[Verb, int] = {"data": 0, "train": 1, "derive": 1, "fold": 3}


@dataclass(frozen=True)
class Pace:
    """Seconds per iteration, and those that a step of each verb takes beside its iterations."""

    iteration: float
    beside: Mapping[Verb, float]

    def seconds(self, step: PlannedStep) -> float:
        """How long a step takes."""
        return (step.iterations or 0) * self.iteration + self.beside.get(step.verb, 0.0)


@dataclass(frozen=True)
class PlannedStep:
    """A step that is to be run: its iterations (None: it trains nothing), and whether it is done already."""

    title: str
    verb: Verb
    iterations: int | None
    done: bool

    def __str__(self) -> str:
        size = f"  {self.iterations} iterations" if self.iterations is not None else ""
        return f"{self.title}{size}{'  done' if self.done else ''}"


@dataclass(frozen=True)
class Estimate:
    """The steps, and their pace (None: the data are not made yet) with its source."""

    steps: tuple[PlannedStep, ...]
    pace: Pace | None
    source: str

    @property
    def left(self) -> int:
        """Iterations that are still to be done."""
        return sum(step.iterations or 0 for step in self.steps if not step.done)

    def summary(self, jobs: int) -> str:
        """How much is left to do, and how long it takes with `jobs` steps at a time."""
        size = f"{len(self.steps)} steps, {self.left:,} iterations to do: "
        if self.pace is None:
            return size + "no estimate before the data are made"
        seconds = sum(self.pace.seconds(step) for step in self.steps if not step.done)
        each = f"{1000 * self.pace.iteration:.3g} ms each"
        return f"{size}about {duration(seconds / jobs)} at {jobs} at a time, {each} ({self.source})"


def estimate(study: Study, out: Path) -> Estimate:
    """The steps of the study in the folder `out`, and how long they take; without runs there the baseline is timed.

    Raises `CaffeSplitError` where `out` holds another study, and where the baseline cannot be trained.
    """
    check_folder(out)
    check_same(study, inputs_of(study), out)
    steps = planned_steps(study, out)
    pace, source = measured_pace(study, out), f"as the runs in {out} took, tests included"
    if pace is None and all(path.exists() for path in nets.data_files(study)):
        pace = time_baseline(study)
        source = (
            f"as 20 iterations of the baseline took just now; {pace.beside['train']:.1f} s to start a training are "
            "counted, too; arms and tests take longer"
        )
    return Estimate(steps, pace, source)


def planned_steps(study: Study, out: Path) -> tuple[PlannedStep, ...]:
    """The steps of a study in the folder `out`."""
    sizes = work(study)
    return tuple(
        PlannedStep(step.title, step.verb, sizes.get(step.title), (out / step.output).exists())
        for step in steps_of(study)
    )


def work(study: Study) -> dict[str, int]:
    """Iterations of each training step, by title."""
    end = nets.length(study)
    after = end - study.split if study.schedule == "continue" else end
    found = {}
    for step in steps_of(study):
        if step.verb != "train":
            continue
        if step.name == "baseline":
            size = nets.baseline_length(study)
        elif step.name in study.controls or step.name in study.rated:
            size = after
        elif study.widened(step.name) is not None:
            size = study.split + after
        else:
            stage = stage_of(study, step.name)[1]
            size = (stage.until or end) - (stage.at if study.schedule == "continue" else 0)
        found[step.title] = size
    return found


def measured_pace(study: Study, out: Path) -> Pace | None:
    """The pace of the steps that are done in `out`, trainings with start and tests; None without any training."""
    sizes = work(study)
    iterations, took = 0, dict[Verb, list[float]]()
    for step in steps_of(study):
        mark = read_mark(step, out)
        if mark is not None and not mark.failed:
            iterations += sizes.get(step.title, 0)
            took.setdefault(step.verb, []).append(mark.seconds)
    if not iterations:
        return None
    trained = sum(took.pop("train"))
    means = {verb: sum(seconds) / len(seconds) for verb, seconds in took.items()}
    # Folds come last; until the first is done, they are taken to be as long as a derivation.
    usual = max(means.values(), default=0.0)
    return Pace(trained / iterations, {"derive": usual, "fold": usual, **means})


def time_baseline(study: Study, iterations: int = 20) -> Pace:
    """The pace of the baseline, from the second half of a short training in a temporary folder, and from its start.

    Arms, which take longer, and tests are not included. Raises `CaffeSplitError` where it cannot be trained.
    """
    with scratch() as place:
        folder = place / "run"
        solver = nets.solver_for(study, study.seeds[0], folder, str(folder / "net"), iterations)
        settings = {"display": iterations // 2, "snapshot": 0, "snapshot_after_train": False}
        for key, value in {**settings, "test_interval": 10**9, "test_initialization": False}.items():
            solver.set(key, value)
        made(folder, {nets.NET: nets.study_net(study).to_bytes(), nets.SOLVER: solver.to_bytes()})
        try:
            begun = time.monotonic()
            with holding(folder / "lock") as held:
                fit(study, held, Fit(folder, study.seeds[0], iterations))
        except StepFailedError as error:
            raise CaffeSplitError(f"the baseline does not train: {error}") from None
        whole = time.monotonic() - begun
        shown = read_log(folder / "train.log").runs[-1].displays
        if len(shown) < 2 or shown.iteration[-1] == shown.iteration[0]:
            raise CaffeSplitError("the baseline's log has no times")
        each = float(shown.seconds[-1] - shown.seconds[-2]) / int(shown.iteration[-1] - shown.iteration[-2])
        start = max(0.0, whole - iterations * each)
        return Pace(each, {verb: count * start for verb, count in _STARTS.items()})
