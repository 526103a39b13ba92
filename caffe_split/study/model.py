"""What a study is: its arms and settings, as values."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True)
class Arm:
    """One way to split. `layers` or `num_splits` says which convolutions; `calibrate` is in batches; `rounds` are the
    iterations at which what has come of it is split again.
    """

    name: str
    kind: str
    partition: str = "median"
    init: str = "exact"
    layers: tuple[str, ...] = ()
    num_splits: int = 0
    noise: float = 0.01
    branch_norm: bool = False
    calibrate: int = 20
    skip_pool: str = "stride"
    residual_activation: str = "none"
    added_lr: float = 1.0
    rounds: tuple[int, ...] = ()

    @property
    def folds(self) -> bool:
        """Whether what is added is linear, so that it can be folded."""
        return self.kind != "residual" or self.residual_activation == "none"

    def words(self, seed: int) -> list[str]:
        """The options of `caffe-split make-derived`."""
        words = ["--kind", self.kind, "--partition", self.partition.replace("SEED", str(seed)), "--init", self.init]
        words += ["--noise", repr(self.noise), "--seed", str(seed), "--skip-pool", self.skip_pool]
        words += ["--residual-activation", self.residual_activation, "--added-lr", repr(self.added_lr)]
        if self.layers:
            words += ["--layers", ",".join(self.layers)]
        else:
            words += ["--num-splits", str(self.num_splits)]
        if self.branch_norm:
            words += ["--branch-norm", "--calibrate", str(self.calibrate)]
        return words


@dataclass(frozen=True)
class Study:
    """A study as read. Paths are absolute; `random` and `wider` name the arms that get that control; `rates`
    are what the controls `rate-X` multiply the rate by.

    `split` is the iteration whose snapshot is split, `window` and `interval` what TPM looks at (window None: no TPM is
    needed). `make` is a data set that `caffe-split data` can make by itself.
    """

    name: str
    file: Path
    solver: Path
    root: Path
    data: Path | None
    make: str
    engine: str
    precision: str
    device: str
    threads: int
    seeds: tuple[int, ...]
    split: int
    window: tuple[int, int] | None
    interval: int
    schedule: str
    arms: tuple[Arm, ...]
    random: tuple[str, ...]
    wider: tuple[str, ...]
    rates: tuple[float, ...] = ()

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
        lists = ("layers", "rounds")
        arms = tuple(Arm(**{**arm, **{key: tuple(arm.get(key, ())) for key in lists}}) for arm in value["arms"])
        paths = {key: Path(value[key]) for key in ("file", "solver", "root")}
        return cls(
            **{
                **value,
                **paths,
                "arms": arms,
                "data": None if value["data"] is None else Path(value["data"]),
                "window": None if value["window"] is None else tuple(value["window"]),
                **{key: tuple(value.get(key, ())) for key in ("seeds", "random", "wider", "rates")},
            }
        )

    @property
    def watches(self) -> bool:
        """Whether the baseline is trained with TPM layers."""
        return self.window is not None

    @property
    def windows(self) -> list[tuple[int, int]]:
        """The windows that TPM layers look at: up to the split, and from each split to the next round's."""
        if self.window is None:
            return []
        found = [self.window]
        for arm in self.arms:
            found += zip((self.split, *arm.rounds), arm.rounds)
        return list(dict.fromkeys(found))

    @property
    def rated(self) -> dict[str, float]:
        """The names of the controls that train on without a split, at another rate, and by what it is multiplied."""
        return {f"rate-{rate:g}": rate for rate in self.rates}

    def all_arms(self) -> list[Arm]:
        """The arms, and the random partition of those that are to have that control."""
        chosen = {arm.name: arm for arm in self.arms}
        extra = [
            Arm(**{**vars(chosen[name]), "name": f"random-{name}", "partition": "random:SEED"}) for name in self.random
        ]
        return [*self.arms, *extra]
