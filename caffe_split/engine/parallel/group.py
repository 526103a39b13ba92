"""The processes that train one net together: which part of every batch is whose, and the sums over all of them.

Each process has the whole net, reads its rows of every batch, and adds its gradients to the others'. Collectives run
in one order in all processes; whoever is alone (`ALONE`) runs none.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
import torch
import torch.distributed as dist

from caffe_split.engine.spec.shared_batch import NotSharedError

F = TypeVar("F", bound=Callable[..., Any])


@dataclass(frozen=True)
class Rows:
    """What a process takes of a batch of `whole` records: `count` of them from `first` on."""

    whole: int
    first: int
    count: int

    @property
    def slice(self) -> slice:
        return slice(self.first, self.first + self.count)


class Group:
    """`size` processes, of which this is number `rank`, by torch.distributed's default group.

    multiply: every process takes a whole batch_size, and the batch is `size` times as large, as Caffe does on several
    GPUs. sync_norms: BatchNorm's statistics are those of the whole batch.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, multiply: bool = False, sync_norms: bool = False) -> None:
        self.rank, self.size, self.multiply, self.sync_norms = rank, size, multiply, sync_norms
        self._quiet = False

    def dividing(self) -> Group:
        """The same processes, dividing every batch."""
        return Group(self.rank, self.size, sync_norms=self.sync_norms) if self.multiply else self

    @property
    def is_first(self) -> bool:
        """Whether this process writes the log and the snapshots."""
        return self.rank == 0

    @property
    def speaks(self) -> bool:
        """Whether there are others to compute with."""
        return self.size > 1 and not self._quiet

    @contextlib.contextmanager
    def quiet(self) -> Iterator[None]:
        """Within, this process computes for itself, and the others may do what they like."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def rows(self, batch: int) -> Rows:
        """This process's part of a batch. Raises `NotSharedError` for one that does not divide."""
        if self.multiply:
            return Rows(batch * self.size, batch * self.rank, batch)
        if batch % self.size:
            raise NotSharedError(
                f"a batch of {batch} does not divide over {self.size} processes; take a batch_size that is a multiple "
                f"of {self.size}, or --scale-batch for {batch} records in every process."
            )
        count = batch // self.size
        return Rows(batch, count * self.rank, count)

    # -- sums; every process gets the same bits

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes; no gradient goes through it."""
        if not self.speaks or values.is_meta:
            return values
        return _sum(values)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The means over all processes of a few numbers."""
        if not self.speaks:
            return list(values)
        sums = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(sums)
        return [float(value) / self.size for value in sums]

    def average(self, gradients: Sequence[torch.Tensor], also: Sequence[float]) -> list[float]:
        """Replace gradients by their means over all processes, all of them in one message; the means of `also`."""
        if not self.speaks:
            return list(also)
        if not gradients:
            return self.mean(also)
        device = gradients[0].device
        flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor(also, device=device)])
        dist.all_reduce(flat)
        flat /= self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()
        return [float(value) for value in flat[start:].cpu()]

    def rows_of_all(self, values: torch.Tensor) -> torch.Tensor:
        """The parts of all processes one behind the other, along the first axis."""
        if not self.speaks:
            return values
        values = values.detach().contiguous()
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values)
        return torch.cat(parts)

    @torch.no_grad()
    def spread(self, tensors: Sequence[torch.Tensor]) -> None:
        """Give the first process's values to all."""
        if self.speaks:
            for tensor in tensors:
                values = tensor.detach().contiguous()
                dist.broadcast(values, 0)
                if not self.is_first:
                    tensor.copy_(values)

    def spread_value(self, value: Any) -> Any:
        """What the first process says, for all; small, and of Python's own types."""
        if not self.speaks:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def values_of_all(self, value: Any) -> list[Any]:
        """What every process says, by rank; small, and of Python's own types."""
        if not self.speaks:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box


def outside_of_graphs(function: F) -> F:
    """Keep what speaks with other processes out of what `torch.compile` makes.

    `torch.compiler.disable` by itself takes a second to import, of every training.
    """
    kept: list[Callable[..., Any]] = []

    @functools.wraps(function)
    def run(*arguments: Any) -> Any:
        if "torch._dynamo" not in sys.modules:
            return function(*arguments)
        if not kept:
            kept.append(torch.compiler.disable(function))
        return kept[0](*arguments)

    return run  # type: ignore[return-value]


@outside_of_graphs
def _sum(values: torch.Tensor) -> torch.Tensor:
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


ALONE = Group()


def mixed(*numbers: int) -> int:
    """A seed from a seed and what it is for; 0 <= seed < 2^63."""
    return int(np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0] >> np.uint64(1))
