"""The steps of a loop, in their order."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from caffe_split.rounds.options import MultiSplitOptions

Verb = Literal["train", "derive", "fold"]
BASELINE = "baseline"


@dataclass(frozen=True)
class LoopStep:
    """One step: what is done (`verb`) to the run `name`, which goes on from the run `parent`.

    `iterations` are those that it trains, 0 if none. `splits` is whether the run is a split one, no control.
    """

    verb: Verb
    name: str
    parent: str
    iterations: int = 0
    splits: bool = True

    @property
    def title(self) -> str:
        """The step's name, for users and for its mark."""
        return f"{self.name}.{self.verb}"


def round_name(number: int) -> str:
    """The run of a round, as the study names it: MultiSplits, MultiSplits2, ...

    >>> [round_name(number) for number in (1, 2)]
    ['MultiSplits', 'MultiSplits2']
    """
    return f"MultiSplits{number if number > 1 else ''}"


def control_name(number: int) -> str:
    """The control of a round: control, control2, ..."""
    return f"control{number if number > 1 else ''}"


def steps_of(options: MultiSplitOptions, max_iter: int, adopted: bool) -> list[LoopStep]:
    """All steps, each after those that it needs; `adopted` is whether the baseline has been trained before.

    The iterations of trainings that continue at an iteration that is not known yet are counted from 0.
    """
    steps = [LoopStep("train", BASELINE, "", 0 if adopted else max_iter)]
    if options.derive.schedule == "continue":
        max_iter -= options.iteration or 0
    for number in range(1, options.rounds + 1):
        name = round_name(number)
        parent = round_name(number - 1) if number > 1 else BASELINE
        steps += [LoopStep("derive", name, parent), LoopStep("train", name, parent, max_iter)]
        steps.append(LoopStep("fold", name, parent))
        if options.control:
            name, parent = control_name(number), control_name(number - 1) if number > 1 else BASELINE
            steps += [LoopStep("derive", name, parent, 0, False), LoopStep("train", name, parent, max_iter, False)]
    return steps
