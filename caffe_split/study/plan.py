"""The steps of a study, and what each waits for."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_split.study.model import Arm, Study


@dataclass(frozen=True)
class Step:
    """One step: what is done (`verb`) to the run of `name` under `seed`; it marks its end in the file `output`."""

    verb: str
    seed: int
    name: str
    needs: tuple[str, ...]

    @property
    def title(self) -> str:
        return f"s{self.seed}.{self.name}.{self.verb}" if self.seed >= 0 else self.verb

    @property
    def output(self) -> str:
        return f"done/{self.title}.json"


@dataclass(frozen=True)
class Stage:
    """What an arm is from one split to the next: the run `name`, split from the run `parent` at iteration `at` by the
    TPM of `window`, trained to `until` (None: to the end).
    """

    name: str
    parent: str
    at: int
    until: int | None
    window: tuple[int, int] | None


def stages_of(study: Study, arm: Arm) -> list[Stage]:
    """The arm's stages, one a round; the last has the arm's name, those before it `ARM@1`, ..."""
    names = [*(f"{arm.name}@{number}" for number in range(1, len(arm.rounds) + 1)), arm.name]
    windows = [study.window, *zip((study.split, *arm.rounds), arm.rounds)]
    ends = zip(names, ["baseline", *names], (study.split, *arm.rounds), (*arm.rounds, None), windows)
    return [Stage(*each) for each in ends]


def stage_of(study: Study, name: str) -> tuple[Arm, Stage]:
    """The arm and the stage of a run that was split."""
    return next((arm, stage) for arm in study.all_arms() for stage in stages_of(study, arm) if stage.name == name)


def steps_of(study: Study) -> list[Step]:
    """All steps but the table, each after those it needs."""
    steps = [Step("data", -1, "", ())]
    for seed in study.seeds:
        steps += _of_seed(study, seed, steps[0].output)
    return steps


def _of_seed(study: Study, seed: int, data: str) -> list[Step]:
    baseline = Step("train", seed, "baseline", (data,))
    steps = [baseline, *(Step("train", seed, name, (baseline.output,)) for name in ("continue", *study.rated))]
    derived = {}
    for arm in study.all_arms():
        train = baseline
        for stage in stages_of(study, arm):
            derive = Step("derive", seed, stage.name, (train.output,))
            train = Step("train", seed, stage.name, (derive.output,))
            derived[stage.name] = derive
            steps += [derive, train]
        if arm.folds:
            steps.append(Step("fold", seed, arm.name, (train.output,)))
    for name in study.wider:
        steps.append(Step("train", seed, f"wider-{name}", (derived[name].output,)))
    return steps
