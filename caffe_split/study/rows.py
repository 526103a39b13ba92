"""The rows of a study's table: each run over all seeds, with paired differences to the control."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Union

from caffe_split.study.model import Study, random_name
from caffe_split.study.plan import stages_of, steps_of
from caffe_split.study.results import Failed, Folded, Mark, Result, Trained, read_mark
from caffe_split.study.statistics import Interval, paired, spread

# (seed, run, verb) -> the result of that step.
Results = Mapping[tuple[int, str, str], Result]
# A count that all seeds share, or the least and the most; None where it is not known.
Count = Union[int, list[int], None]


@dataclass(frozen=True)
class FoldRow:
    """Folding of a run over `n` seeds; `accuracy_difference` is the largest, folded less unfolded, with its sign."""

    n: int
    parameters: Count
    macs: Count
    accuracy_difference: float | None


@dataclass(frozen=True)
class Row:
    """A run over its seeds: `n` of them came to their end. Accuracies are shares; values of no seed are NaN.

    Differences are to `control`, which has trained as long without a split (empty: the run is one itself), and to the
    random partition of the same arm; None where a run has no such difference. `compared` has the differences of final
    accuracies to other runs that the study compares it with, by their names. `failed` is seed -> reason. The fields
    stand in the order of table.json.
    """

    run: str
    control: str
    n: int
    final_mean: float
    final_sd: float
    final_difference: Interval | None
    final_by_seed: dict[str, float]
    best_mean: float
    best_sd: float
    best_difference: Interval | None
    best_by_seed: dict[str, float]
    final_difference_to_random: Interval | None
    parameters_before: Count
    parameters: Count
    parameters_by_seed: dict[str, int | None]
    macs_before: Count
    macs: Count
    macs_by_seed: dict[str, int | None]
    folded: FoldRow | None
    training_seconds: float
    movements: dict[str, float]
    failed: dict[str, str]
    compared: dict[str, Interval] = field(default_factory=dict)

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it: intervals with their reading."""
        values = {key: _plain(value) for key, value in vars(self).items()}
        compared = {other: _plain(found) for other, found in self.compared.items()}
        return {**values, "folded": None if self.folded is None else asdict(self.folded), "compared": compared}


def _plain(value: Any) -> Any:
    return {**asdict(value), "reading": value.reading} if isinstance(value, Interval) else value


def read_results(study: Study, out: Path = Path()) -> Results:
    """The results in the study's folder `out`; a step without a mark has failed."""
    absent = Mark(Failed("it was not run to its end"), 0.0)
    return {(step.seed, step.name, step.verb): (read_mark(step, out) or absent).result for step in steps_of(study)}


def differences(row: Row) -> dict[str, Interval]:
    """The differences of a run's final accuracy to those of other runs than its control, by their names."""
    chance = row.final_difference_to_random
    return {**({} if chance is None else {random_name(row.run): chance}), **row.compared}


def rows_of(study: Study, results: Results) -> list[Row]:
    """One row per run that is wanted, in the order in which the study plans them."""
    return [_row(study, results, name) for name in study.wanted]


def _row(study: Study, results: Results, name: str) -> Row:
    rounds = [stage.name for arm in study.all_arms() if arm.name == name for stage in stages_of(study, arm)] or [name]
    runs = {seed: _whole([results[seed, each, "train"] for each in rounds]) for seed in study.seeds}
    good = _trained(runs)
    beside = "" if name in ("baseline", *study.controls) else study.control_of(name)
    control = _trained({seed: results[seed, beside, "train"] for seed in study.seeds}) if beside else {}
    chance = _trained({seed: results.get((seed, random_name(name), "train"), Failed("")) for seed in study.seeds})
    base = _trained({seed: results[seed, "baseline", "train"] for seed in study.seeds}).values()
    folds = {seed: results[seed, name, "fold"] for seed in good if (seed, name, "fold") in results}
    failed = {seed: run.failed for seed, run in runs.items() if isinstance(run, Failed)}
    failed.update({seed: f"fold: {fold.failed}" for seed, fold in folds.items() if isinstance(fold, Failed)})
    finals = {seed: run.final for seed, run in good.items()}
    bests = {seed: run.best for seed, run in good.items()}
    final_mean, final_sd = spread(list(finals.values()))
    best_mean, best_sd = spread(list(bests.values()))

    def difference(values: Mapping[int, float], others: Mapping[int, float]) -> Interval:
        return paired([value - others[seed] for seed, value in values.items() if seed in others], study.comparisons)

    return Row(
        run=name,
        control=beside,
        n=len(good),
        final_mean=final_mean,
        final_sd=final_sd,
        final_difference=difference(finals, {seed: run.final for seed, run in control.items()}) if beside else None,
        final_by_seed=_by_seed(finals),
        best_mean=best_mean,
        best_sd=best_sd,
        best_difference=difference(bests, {seed: run.best for seed, run in control.items()}) if beside else None,
        best_by_seed=_by_seed(bests),
        final_difference_to_random=difference(finals, {seed: run.final for seed, run in chance.items()})
        if name in study.random and random_name(name) in study.wanted
        else None,
        parameters_before=_same(run.parameters for run in base),
        parameters=_same(run.parameters for run in good.values()),
        parameters_by_seed=_by_seed({seed: run.parameters for seed, run in good.items()}),
        macs_before=_same(run.macs for run in base),
        macs=_same(run.macs for run in good.values()),
        macs_by_seed=_by_seed({seed: run.macs for seed, run in good.items()}),
        folded=_fold_row(folds.values()) if folds else None,
        training_seconds=spread([run.training_seconds for run in good.values()])[0],
        movements=_movements([run.movements for run in good.values() if run.movements is not None]),
        failed=_by_seed(failed),
        compared={other: difference(finals, _finals(study, results, other)) for other in _others(study, name)},
    )


def _others(study: Study, name: str) -> list[str]:
    """The wanted runs that the study compares a run with, beside its control."""
    return [other for run, other in study.compare if run == name and other in study.wanted]


def _finals(study: Study, results: Results, name: str) -> dict[int, float]:
    found = _trained({seed: results[seed, name, "train"] for seed in study.seeds})
    return {seed: run.final for seed, run in found.items()}


def _trained(runs: Mapping[int, Result]) -> dict[int, Trained]:
    """The trainings that came to their end, by seed."""
    return {seed: run for seed, run in runs.items() if isinstance(run, Trained)}


def _by_seed(values: Mapping[int, Any]) -> dict[str, Any]:
    return {str(seed): value for seed, value in values.items()}


def _fold_row(folds: Iterable[Result]) -> FoldRow:
    folded = [fold for fold in folds if isinstance(fold, Folded)]
    return FoldRow(
        n=len(folded),
        parameters=_same(fold.parameters for fold in folded),
        macs=_same(fold.macs for fold in folded),
        accuracy_difference=max((fold.final - fold.unfolded for fold in folded), key=abs, default=None),
    )


def _whole(stages: Sequence[Result]) -> Result:
    """A run of several rounds as one: the last, with the best and the time of all, and each round's movements."""
    last = stages[-1]
    trained = [stage for stage in stages if isinstance(stage, Trained)]
    if not isinstance(last, Trained) or len(trained) == 1:
        return last
    moved = {
        f"{layer}, round {number}": {f"{part}, round {number}": value for part, value in parts.items()}
        for number, stage in enumerate(trained, 1)
        for layer, parts in (stage.movements or {}).items()
    }
    return replace(
        last,
        best=max(stage.best for stage in trained),
        training_seconds=sum(stage.training_seconds for stage in trained),
        movements=moved,
    )


def _same(values: Iterable[int | None]) -> Count:
    known = sorted(value for value in values if value is not None)
    if not known:
        return None
    return known[0] if known[0] == known[-1] else [known[0], known[-1]]


def _movements(runs: Sequence[Mapping[str, Mapping[str, float | None]]]) -> dict[str, float]:
    """Part -> relative change of its weights, the mean over layers and seeds."""
    found: dict[str, list[float]] = {}
    for run in runs:
        for parts in run.values():
            for part, value in parts.items():
                if value is not None:
                    found.setdefault(part, []).append(value)
    return {part: spread(values)[0] for part, values in found.items()}
