"""The steps of a study, and what each of them needs."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from caffe_split.study.arm import Arm
from caffe_split.study.model import Study, wider_name

Verb = Literal["data", "train", "derive", "fold"]
# The folder of the marks.
DONE = "done"


@dataclass(frozen=True)
class StudyStep:
    """One step of a study: what is done (`verb`) to the run `name` under `seed`, after the files `needs` are there.

    The step that makes the data has no run, and seed -1.
    """

    verb: Verb
    seed: int
    name: str
    needs: tuple[str, ...]

    @property
    def title(self) -> str:
        """The step's name, for users and for Snakemake."""
        return f"s{self.seed}.{self.name}.{self.verb}" if self.seed >= 0 else self.verb

    @property
    def output(self) -> str:
        """The file that marks the step's end."""
        return f"{DONE}/{self.title}.json"


@dataclass(frozen=True)
class Stage:
    """An arm from one split to the next.

    It is the run `name`, split from the run `parent` at iteration `at` by the TPM of `window` (None: by something
    else), and trained to `until` (None: to the end).
    """

    name: str
    parent: str
    at: int
    until: int | None
    window: tuple[int, int] | None


def stages_of(study: Study, arm: Arm) -> list[Stage]:
    """The arm's stages, one a round; the last has the arm's name, those before it `ARM@1`, ..."""
    if arm.after:
        return [Stage(arm.name, arm.after, study.split, None, study.window if arm.needs_tpm else None)]
    names = [*(f"{arm.name}@{number}" for number in range(1, len(arm.rounds) + 1)), arm.name]
    spans = [study.window, *zip((study.split, *arm.rounds), arm.rounds)]
    windows = [span if arm.needs_tpm else None for span in spans]
    ends = zip(names, ["baseline", *names], (study.split, *arm.rounds), (*arm.rounds, None), windows)
    return [Stage(*each) for each in ends]


def stage_of(study: Study, name: str) -> tuple[Arm, Stage]:
    """The arm and the stage of a run that was split."""
    return next((arm, stage) for arm in study.all_arms() for stage in stages_of(study, arm) if stage.name == name)


def steps_of(study: Study) -> list[StudyStep]:
    """The steps of the runs that are wanted, except the table, each after those that it needs."""
    steps = [StudyStep("data", -1, "", ())]
    for seed in study.seeds:
        steps += _of_seed(study, seed, steps[0].output)
    if not study.only:
        return steps
    wanted, kept = set(study.wanted), []
    needed = {steps[0].output}
    for step in reversed(steps):
        if step.name in wanted or step.output in needed:
            kept.append(step)
            needed.update(step.needs)
    return kept[::-1]


def runs_in(out: Path) -> set[str]:
    """The runs of which a study's folder has marks, whatever its plan; an arm's stage counts as the arm."""
    titles = [path.stem.partition(".")[2] for path in (out / DONE).glob("s*.json")]
    return {title.rpartition(".")[0].partition("@")[0] for title in titles}


def _of_seed(study: Study, seed: int, data: str) -> list[StudyStep]:
    baseline = StudyStep("train", seed, "baseline", (data,))
    steps = [baseline, *(StudyStep("train", seed, name, (baseline.output,)) for name in study.rated)]
    trained, derived, train = {"": baseline}, {}, baseline
    for name in study.controls:
        train = StudyStep("train", seed, name, (train.output,))
        steps.append(train)
    for arm in study.all_arms():
        train = trained[arm.after]
        for stage in stages_of(study, arm):
            derive = StudyStep("derive", seed, stage.name, (train.output,))
            train = StudyStep("train", seed, stage.name, (derive.output,))
            derived[stage.name] = derive
            steps += [derive, train]
        trained[arm.name] = train
        if arm.folds:
            steps.append(StudyStep("fold", seed, arm.name, (train.output,)))
    for name in study.wider:
        steps.append(StudyStep("train", seed, wider_name(name), (derived[name].output,)))
    return steps
