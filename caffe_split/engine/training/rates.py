"""Caffe's learning rate policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.errors import CaffeSplitError
from caffe_split.formats.prototxt.check import LR_POLICIES
from caffe_split.net.options import Options


@dataclass(frozen=True)
class Policy:
    """A learning rate policy: its name (lr_policy) and its numbers, as the solver gives them.

    The formulas are those of SGDSolver::GetLearningRate in Caffe.
    """

    name: str
    base: float
    gamma: float
    power: float
    step: int
    steps: Sequence[int]
    max_iter: int

    @classmethod
    def of(cls, solver: Options) -> Policy:
        """The policy of a solver. Raises `CaffeSplitError` for an unknown one, and for numbers that Caffe refuses."""
        policy = cls(
            name=str(solver.get("lr_policy")),
            base=float(solver.get("base_lr")),
            gamma=float(solver.get("gamma")),
            power=float(solver.get("power")),
            step=int(solver.get("stepsize")),
            steps=tuple(int(value) for value in solver.all("stepvalue")),
            max_iter=int(solver.get("max_iter")),
        )
        if policy.name not in LR_POLICIES:
            raise CaffeSplitError(f"lr_policy {policy.name!r} is not one of {', '.join(LR_POLICIES)}.")
        if policy.name in ("step", "sigmoid") and policy.step < 1:
            raise CaffeSplitError(f"lr_policy {policy.name!r} needs a stepsize; found {policy.step}.")
        if policy.name not in ("fixed", "poly") and policy.gamma < 0:
            raise CaffeSplitError(f"lr_policy {policy.name!r} needs a gamma of 0 or more; found {policy.gamma}.")
        return policy

    def next_step(self, iteration: int, current: int) -> int:
        """The number of changes of the rate until `iteration`, given the number so far (current_step).

        multistep makes at most one change per iteration, as in Caffe.
        """
        if self.name == "step":
            return iteration // self.step
        if self.name == "multistep" and current < len(self.steps) and iteration >= self.steps[current]:
            return current + 1
        return current

    def rate(self, iteration: int, current: int) -> float:
        """The rate of an iteration, where `current` is the result of `next_step`; as in C it may be inf, 0 or nan."""
        gamma, done = np.float64(self.gamma), np.float64(iteration)
        factor = np.float64(1)
        with np.errstate(all="ignore"):
            if self.name in ("step", "multistep"):
                factor = gamma**current
            elif self.name == "exp":
                factor = gamma**done
            elif self.name == "inv":
                factor = (1 + gamma * done) ** -self.power
            elif self.name == "poly":
                factor = (1 - done / self.max_iter) ** self.power
            elif self.name == "sigmoid":
                factor = 1 / (1 + np.exp(-gamma * (done - self.step)))
            return float(self.base * factor)
