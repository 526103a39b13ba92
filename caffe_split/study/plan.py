"""The steps of a study, and what each waits for."""

from __future__ import annotations

from dataclasses import dataclass

from caffe_split.study.read import Study


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


def steps_of(study: Study) -> list[Step]:
    """All steps but the table, each after those it needs."""
    steps = [Step("data", -1, "", ())]
    for seed in study.seeds:
        steps += _of_seed(study, seed, steps[0].output)
    return steps


def _of_seed(study: Study, seed: int, data: str) -> list[Step]:
    baseline = Step("train", seed, "baseline", (data,))
    steps = [baseline, Step("train", seed, "continue", (baseline.output,))]
    derived = {}
    for arm in study.all_arms():
        derive = Step("derive", seed, arm.name, (baseline.output,))
        train = Step("train", seed, arm.name, (derive.output,))
        derived[arm.name] = derive
        steps += [derive, train]
        if arm.folds:
            steps.append(Step("fold", seed, arm.name, (train.output,)))
    for name in study.wider:
        steps.append(Step("train", seed, f"wider-{name}", (derived[name].output,)))
    return steps
