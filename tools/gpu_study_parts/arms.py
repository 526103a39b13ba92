"""What the study trains: its arms, its schedule at a scale, and how long all of it takes at measured speeds."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from caffe_split.errors import CaffeSplitError
from gpu_study_parts.split import Cut

SCALES = [
    Fraction(1),
    Fraction(1, 2),
    Fraction(2, 5),
    Fraction(1, 4),
    Fraction(1, 5),
    Fraction(1, 8),
    Fraction(1, 10),
    Fraction(1, 16),
    Fraction(1, 32),
    Fraction(1, 64),
]


@dataclass(frozen=True)
class Arm:
    """A training. It begins from the split snapshot of `parent`, split by `cut`; None: as it is, for a control."""

    name: str
    parent: str | None = None
    cut: Cut | None = None


def arms_of(seed: int) -> list[Arm]:
    """All trainings of a seed; a parent before its children, what others wait for first."""
    residual = Cut("residual")
    return [
        Arm("baseline"),
        Arm("MultiSplits", "baseline", residual),
        Arm("continue", "baseline"),
        Arm("MultiSplits2", "MultiSplits", residual),
        Arm("continue2", "continue"),
        Arm("MultiSplits3", "MultiSplits2", residual),
        Arm("continue3", "continue2"),
        Arm("SkipSplit_1x1", "baseline", Cut("skip", "stride")),
        Arm("SkipSplit_AvgPooling", "baseline", Cut("skip", "average")),
        Arm("random-MultiSplits", "baseline", Cut("residual", partition=f"random:{seed}")),
    ]


# An arm and what it is measured against: the same net trained as long from the same snapshots.
CONTROLS = {
    "MultiSplits": "continue",
    "MultiSplits2": "continue2",
    "MultiSplits3": "continue3",
    "SkipSplit_1x1": "continue",
    "SkipSplit_AvgPooling": "continue",
    "random-MultiSplits": "continue",
}


@dataclass(frozen=True)
class Schedule:
    """The recipe's iterations, times `scale`, rounded so that samples, tests and the split fall on one grid."""

    scale: Fraction

    @property
    def interval(self) -> int:
        """Of TPM's samples, and of what the log shows."""
        return max(1, round(100 * self.scale))

    @property
    def test_interval(self) -> int:
        return 10 * self.interval

    def _near(self, iterations: int, unit: int) -> int:
        return unit * max(1, round(iterations * self.scale / unit))

    @property
    def total(self) -> int:
        return self._near(64000, self.test_interval)

    @property
    def split(self) -> int:
        return min(self._near(50000, self.interval), self.total - self.interval)

    @property
    def window(self) -> tuple[int, int]:
        return self.split - self._near(10000, self.interval), self.split

    @property
    def rate_steps(self) -> tuple[int, int]:
        return self._near(32000, 1), self._near(48000, 1)

    @property
    def tests(self) -> int:
        return self.total // self.test_interval + 1

    @property
    def unroll(self) -> int:
        """Iterations of a captured graph."""
        return max(count for count in range(1, 11) if self.interval % count == 0)

    def check(self) -> None:
        """Raises `CaffeSplitError` for a scale so small that windows or steps collide."""
        (start, stop), (first, second) = self.window, self.rate_steps
        if start < self.interval or (stop - start) // self.interval < 2 or not first < second < self.total:
            raise CaffeSplitError(
                f"at --scale {self.scale} the recipe's steps collide: TPM over {start} to {stop} every "
                f"{self.interval}, rates change at {first} and {second} of {self.total} iterations. Take a larger one."
            )

    def rates(self) -> np.ndarray:
        """The learning rate of every iteration."""
        iteration = np.arange(self.total)
        return 0.1 * 0.1 ** sum((iteration >= step).astype(int) for step in self.rate_steps)

    def solver(self, text: str, folder: str) -> str:
        """The recipe's solver at this scale, of the net in `folder`."""
        from caffe_split.formats import prototxt

        solver = prototxt.parse(text, filename="solver.prototxt")
        solver.set("net", f"{folder}/train_val.prototxt")
        solver.set("snapshot_prefix", f"{folder}/resnet20_cifar10")
        for field, value in (
            ("test_interval", self.test_interval),
            ("display", self.interval),
            ("max_iter", self.total),
            ("snapshot", self.split),
        ):
            solver.set(field, value)
        steps = solver.all_fields("stepvalue")
        for field in steps[1:]:
            solver.remove(field)
        solver.set("stepvalue", self.rate_steps[0])
        solver.add("stepvalue", self.rate_steps[1], after=solver.field("stepvalue"))
        return str(solver)


def seconds_for(
    schedule: Schedule, seeds: Sequence[int], together: int, pace: Callable[[int], float], factors: Mapping[str, float]
) -> float:
    """How long all seeds' trainings take: `pace(k)` is milliseconds an iteration of k trainings side by side, all
    counted together; `factors` how much longer an arm takes."""
    left = {(seed, arm.name): float(schedule.total) for seed in seeds for arm in arms_of(seed)}
    order = list(left)
    parents = {arm.name: arm.parent for arm in arms_of(seeds[0])}
    clock = 0.0

    def ready(task: tuple[int, str]) -> bool:
        parent = parents[task[1]]
        return parent is None or left[task[0], parent] <= schedule.total - schedule.split

    running: list[tuple[int, str]] = []
    while any(left.values()):
        running = [task for task in running if left[task]]
        for task in order:
            if len(running) < together and left[task] and task not in running and ready(task):
                running.append(task)
        # All get an equal share of the device, up to the next event: a snapshot to be split, or an end.
        each = pace(len(running)) * len(running) / 1000
        stops = []
        for task in running:
            past_split = left[task] <= schedule.total - schedule.split
            stops.append((left[task] - (0 if past_split else schedule.total - schedule.split)) * factors[task[1]])
        step = max(min(stops), 1e-6)
        clock += step * each
        for task in running:
            left[task] = max(0.0, left[task] - step / factors[task[1]])
            if left[task] < 1e-3:
                left[task] = 0.0
            elif abs(left[task] - (schedule.total - schedule.split)) < 1e-3:
                left[task] = float(schedule.total - schedule.split)
    return clock


def pace_from(measured: Mapping[int, float]) -> Callable[[int], float]:
    """Milliseconds by number of trainings side by side, between and past the measured ones."""
    counts = sorted(measured)

    def pace(count: int) -> float:
        if count >= counts[-1]:
            return measured[counts[-1]]
        return float(np.interp(count, counts, [measured[k] for k in counts]))

    return pace


def schedule_of(text: str) -> Schedule:
    """That of a scale as people write it: 1, 1/4, 0.25. Raises `CaffeSplitError` for what is none."""
    try:
        scale = Fraction(text)
    except (ValueError, ZeroDivisionError):
        scale = Fraction(0)
    if not 0 < scale <= 1:
        raise CaffeSplitError(f"--scale {text}: expected auto, or a number above 0 and up to 1, as 1/4.")
    schedule = Schedule(scale)
    schedule.check()
    return schedule
