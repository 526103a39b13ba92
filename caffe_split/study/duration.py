"""How long a study takes: the iterations of its steps, and the seconds per iteration."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.files import scratch
from caffe_split.study import nets
from caffe_split.study.checks import check_folder, check_same, inputs_of
from caffe_split.study.locks import holding
from caffe_split.study.model import Study
from caffe_split.study.paths import made
from caffe_split.study.plan import stage_of, steps_of
from caffe_split.study.processes import StepFailedError
from caffe_split.study.results import read_mark
from caffe_split.study.train import Fit, fit
from caffe_split.trainlog.read import read_log
from caffe_split.trainlog.show import duration


@dataclass(frozen=True)
class PlannedStep:
    """A step that is to be run: its iterations (None: it trains nothing), and whether it is done already."""

    title: str
    iterations: int | None
    done: bool

    def __str__(self) -> str:
        size = f"  {self.iterations} iterations" if self.iterations is not None else ""
        return f"{self.title}{size}{'  done' if self.done else ''}"


@dataclass(frozen=True)
class Estimate:
    """The steps, and the seconds per iteration (None: the data are not made yet) with their source."""

    steps: tuple[PlannedStep, ...]
    seconds: float | None
    source: str

    @property
    def left(self) -> int:
        """Iterations that are still to be done."""
        return sum(step.iterations or 0 for step in self.steps if not step.done)

    def summary(self, jobs: int) -> str:
        """How much is left to do, and how long it takes with `jobs` steps at a time."""
        size = f"{len(self.steps)} steps, {self.left:,} iterations to do: "
        if self.seconds is None:
            return size + "no estimate before the data are made"
        time = duration(self.left * self.seconds / jobs)
        return f"{size}about {time} at {jobs} at a time, {1000 * self.seconds:.3g} ms each ({self.source})"


def estimate(study: Study, out: Path) -> Estimate:
    """The steps of the study in the folder `out`, and how long they take; without runs there the baseline is timed.

    Raises `CaffeSplitError` where `out` holds another study, and where the baseline cannot be trained.
    """
    check_folder(out)
    check_same(study, inputs_of(study), out)
    sizes = work(study)
    steps = tuple(
        PlannedStep(step.title, sizes.get(step.title), (out / step.output).exists()) for step in steps_of(study)
    )
    each, source = measured_speed(study, out), f"as the runs in {out} took, tests included"
    if each is None and all(path.exists() for path in nets.data_files(study)):
        each = time_baseline(study)
        source = "as 20 iterations of the baseline took just now; arms and tests take longer"
    return Estimate(steps, each, source)


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


def measured_speed(study: Study, out: Path) -> float | None:
    """Seconds per iteration of the trainings that are done in `out`, with start and tests; None without any."""
    sizes = work(study)
    seconds = count = 0.0
    for step in steps_of(study):
        mark = read_mark(step, out) if step.verb == "train" else None
        if mark is not None and not mark.failed:
            seconds, count = seconds + mark.seconds, count + sizes[step.title]
    return seconds / count if count else None


def time_baseline(study: Study, iterations: int = 20) -> float:
    """Seconds per iteration of the baseline, from the second half of a short training in a temporary folder.

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
            with holding(folder / "lock") as held:
                fit(study, held, Fit(folder, study.seeds[0], iterations))
        except StepFailedError as error:
            raise CaffeSplitError(f"the baseline does not train: {error}") from None
        shown = read_log(folder / "train.log").runs[-1].displays
        if len(shown) < 2 or shown.iteration[-1] == shown.iteration[0]:
            raise CaffeSplitError("the baseline's log has no times")
        return float(shown.seconds[-1] - shown.seconds[-2]) / int(shown.iteration[-1] - shown.iteration[-2])
