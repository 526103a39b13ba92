"""A study as a value: its arms and settings, and the runs and comparisons that follow from them."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal

from caffe_split.derivation.options import Schedule
from caffe_split.study.arm import Arm

Precision = Literal["fp32", "tf32", "bf16"]
Device = Literal["cpu", "cuda"]
# What the names of the runs begin with that a study adds to its arms.
RANDOM, WIDER, RATE = "random-", "wider-", "rate-"


@dataclass(frozen=True)
class Expected:
    """What a data set must be: its folder's name, its number of records, and each channel's mean (may be empty)."""

    name: str
    records: int
    mean: tuple[float, ...] = ()


@dataclass(frozen=True)
class Study:
    """A study as read from its file.

    Paths are absolute. `split` is the iteration whose snapshot is split; `window` and `interval` are those of TPM
    (window None: no TPM is needed). `random` and `wider` name the arms that get that control; `rates` are the factors
    on the rate of the controls `rate-X`. `make` names a data set that the study makes itself, or is empty. `scale` is
    the factor on all iterations: those here are scaled, `unscaled` are the file's, by name. A training is tested about
    `tests` times (0: as the solver says). `only` names the runs of the table that are wanted now, of all `runs` that
    are planned (empty: all of them). At a scale of at most `rehearsal` (empty: at none) a training is tested only at
    its end, and learns from batches of at most `rehearsal_batch` records (0: as the net says). `compare` are pairs of
    runs, which are compared beside the comparisons with controls. `earlier` are the pairs that the study's folder was
    begun with and that are no longer planned, `gone` the arms that it was begun with and that the file no longer has.
    """

    name: str
    file: Path
    solver: Path
    root: Path
    data: Path | None
    make: str
    engine: str
    precision: Precision
    device: Device
    threads: int
    seeds: tuple[int, ...]
    split: int
    window: tuple[int, int] | None
    interval: int
    schedule: Schedule
    arms: tuple[Arm, ...]
    random: tuple[str, ...]
    wider: tuple[str, ...]
    rates: tuple[float, ...] = ()
    tests: int = 0
    expect: tuple[Expected, ...] = ()
    scale: str = "1"
    unscaled: tuple[tuple[str, int], ...] = ()
    only: tuple[str, ...] = ()
    rehearsal: str = ""
    rehearsal_batch: int = 0
    compare: tuple[tuple[str, str], ...] = ()
    earlier: tuple[tuple[str, str], ...] = ()
    gone: tuple[Arm, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """As JSON has it."""
        return {
            **asdict(self),
            **{key: str(getattr(self, key)) for key in ("file", "solver", "root")},
            "data": None if self.data is None else str(self.data),
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Study:
        """From what `as_dict` gave."""
        arms, gone = (
            tuple(Arm(**{**arm, **{key: tuple(arm.get(key, ())) for key in ("layers", "rounds")}}) for arm in given)
            for given in (value["arms"], value.get("gone", ()))
        )
        paths = {key: Path(value[key]) for key in ("file", "solver", "root")}
        return cls(
            **{
                **value,
                **paths,
                "arms": arms,
                "gone": gone,
                "data": None if value["data"] is None else Path(value["data"]),
                "window": None if value["window"] is None else tuple(value["window"]),
                "expect": tuple(Expected(**{**each, "mean": tuple(each["mean"])}) for each in value.get("expect", ())),
                **{
                    key: tuple((str(run), str(other)) for run, other in value.get(key, ()))
                    for key in ("compare", "earlier")
                },
                "unscaled": tuple((str(name), int(at)) for name, at in value.get("unscaled", ())),
                **{key: tuple(value.get(key, ())) for key in ("seeds", "random", "wider", "rates", "only")},
            }
        )

    @property
    def watches(self) -> bool:
        """Whether the baseline is trained with TPM layers."""
        return self.window is not None

    @property
    def windows(self) -> list[tuple[int, int]]:
        """The windows in which TPM layers sample: that before the split, and from each split to the next round's."""
        if self.window is None:
            return []
        found = [self.window]
        for arm in (arm for arm in self.arms if arm.needs_tpm):
            found += zip((self.split, *arm.rounds), arm.rounds)
        return sorted(set(found))

    @property
    def rated(self) -> dict[str, float]:
        """Control that trains on without a split at another rate -> the factor on the rate."""
        return {f"{RATE}{rate:g}": rate for rate in self.rates}

    def widened(self, name: str) -> Arm | None:
        """The arm whose parameters the unsplit net of the run `name` has; None for another run."""
        return next((arm for arm in self.all_arms() if arm.name in self.wider and wider_name(arm.name) == name), None)

    @property
    def factor(self) -> Fraction:
        """The factor on all iterations."""
        return Fraction(self.scale)

    def depth(self, name: str) -> int:
        """How many splits lie between the baseline and the run `name` of an arm, itself included; 1 for others."""
        after = {arm.name: arm.after for arm in self.all_arms()}
        return 1 + (self.depth(after[name]) if after.get(name) else 0)

    def control_of(self, name: str) -> str:
        """The control of the run `name`, which has trained as long: `continue`, `continue2` ..."""
        return control_name(self.depth(name))

    @property
    def controls(self) -> list[str]:
        """The controls of equal training, each trained on from the one before."""
        return [control_name(number) for number in range(1, 1 + max(self.depth(arm.name) for arm in self.arms))]

    @property
    def runs(self) -> list[str]:
        """The planned rows of the table: the baseline where it is trained whole, controls, arms, and wider nets."""
        whole = ["baseline"] if self.schedule == "restart" else []
        arms = [arm.name for arm in self.all_arms()]
        return [*whole, *self.controls, *self.rated, *arms, *map(wider_name, self.wider)]

    @property
    def wanted(self) -> list[str]:
        """The rows of the table that are wanted now: those of `only` with the baseline and their controls."""
        if not self.only:
            return self.runs
        beside = {"baseline", *map(self.control_of, self.only), *self.only}
        return [name for name in self.runs if name in beside]

    @property
    def pairs(self) -> list[tuple[str, str]]:
        """Each run and another whose final accuracies are compared: its control, its random partition, `compare`."""
        runs = [*(arm.name for arm in self.all_arms()), *self.rated, *map(wider_name, self.wider)]
        chance = [(name, random_name(name)) for name in self.random]
        return [*((run, self.control_of(run)) for run in runs), *chance, *self.compare]

    @property
    def comparisons(self) -> int:
        """How many comparisons of final accuracies are planned, now or earlier in the same folder."""
        return len({frozenset(pair) for pair in (*self.pairs, *self.earlier)})

    def after(self, begun: Study) -> Study:
        """The study with the comparisons and arms of `begun`, an earlier plan of the same folder, that it lacks now.

        Results of the comparisons may have been seen, so that to choose among them must not make an interval narrower;
        those of the arms lie in the folder, so that their names cannot be given to others.
        """
        own, names = {frozenset(pair) for pair in self.pairs}, {arm.name for arm in self.arms}
        earlier = [pair for pair in (*begun.pairs, *begun.earlier) if frozenset(pair) not in own]
        gone = tuple(arm for arm in (*begun.arms, *begun.gone) if arm.name not in names)
        return replace(self, earlier=tuple(dict.fromkeys(earlier)), gone=gone)

    @property
    def rehearses(self) -> bool:
        """Whether the study is so short that each training is tested only at its end."""
        return bool(self.rehearsal) and self.factor <= Fraction(self.rehearsal)

    @property
    def most_records(self) -> int:
        """The records of a batch to learn from, at most; 0: as the net says."""
        return self.rehearsal_batch if self.rehearses else 0

    @property
    def parents(self) -> set[str]:
        """The runs that others start from at the split, now or once arms are added."""
        restarted = {*self.controls, *(arm.name for arm in self.arms)} if self.schedule == "restart" else set()
        return {"baseline", *restarted}

    def all_arms(self) -> list[Arm]:
        """The arms, and the control with a random partition of each arm that has it."""
        chosen = {arm.name: arm for arm in self.arms}
        extra = [
            Arm(**{**vars(chosen[name]), "name": random_name(name), "partition": "random:SEED"}) for name in self.random
        ]
        return [*self.arms, *extra]


def is_control_name(name: str) -> bool:
    """Whether a run of that name is one that the study adds, so that no arm may have it."""
    return name.startswith((RANDOM, WIDER, RATE)) or re.fullmatch(r"baseline|continue[0-9]*", name) is not None


def random_name(arm: str) -> str:
    """The arm with its kernels divided by chance."""
    return f"{RANDOM}{arm}"


def wider_name(arm: str) -> str:
    """The unsplit net with the parameters of the arm's net."""
    return f"{WIDER}{arm}"


def control_name(depth: int) -> str:
    """The control of runs that were split `depth` times, one after the other.

    >>> [control_name(depth) for depth in (1, 2)]
    ['continue', 'continue2']
    """
    return f"continue{depth if depth > 1 else ''}"
