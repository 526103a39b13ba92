"""The group of processes that train one net: each one's part of a batch, and sums over all of them.

Each process has the whole net, reads its rows of every batch, and gets the mean of all gradients. Collective operations
run in the same order in all processes. `ALONE`, the group of a single process, runs none.
"""

from __future__ import annotations

import contextlib
import functools
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

import torch
import torch.distributed as dist

from caffe_split.engine.rows import Rows
from caffe_split.engine.spec.shared_batch import NotSharedError

F = TypeVar("F", bound=Callable[..., Any])
T = TypeVar("T")


class Board(Protocol):
    """A quick way for a few values; see `kernels.board`."""

    def takes(self, values: torch.Tensor) -> bool:
        """Whether it can exchange `values`."""

    def of_all(self, values: torch.Tensor) -> torch.Tensor:
        """The values of all processes, by rank along a new first axis."""


class Group:
    """`size` processes, of which this is number `rank`; they compute over torch.distributed's default group.

    Args:
        rank: this process's number, from 0.
        size: the number of processes.
        multiply: each process takes `batch_size` records, so that the batch is `size` times as large, as in Caffe on
            several GPUs. Otherwise the processes divide `batch_size` records.
        sync_norms: BatchNorm normalises by the statistics of the whole batch.

    Attributes:
        board: how small values are exchanged, if the processes have one, instead of over torch.distributed.
    """

    def __init__(self, rank: int = 0, size: int = 1, *, multiply: bool = False, sync_norms: bool = False) -> None:
        self.rank, self.size, self.multiply, self.sync_norms = rank, size, multiply, sync_norms
        self._quiet = False
        self.board: Board | None = None

    def dividing(self) -> Group:
        """The same processes, dividing each batch."""
        if not self.multiply:
            return self
        group = Group(self.rank, self.size, sync_norms=self.sync_norms)
        group.board = self.board
        return group

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
        """Within this context the process computes alone, without waiting for the others."""
        before, self._quiet = self._quiet, True
        try:
            yield
        finally:
            self._quiet = before

    def rows(self, batch: int) -> Rows:
        """This process's part of a batch of `batch` records. Raises `NotSharedError` if it does not divide."""
        if self.multiply:
            return Rows(batch * self.size, batch * self.rank, batch)
        if batch % self.size:
            raise NotSharedError(
                f"a batch of {batch} does not divide over {self.size} processes; take a batch_size that is a multiple "
                f"of {self.size}, or --scale-batch for {batch} records in every process."
            )
        count = batch // self.size
        return Rows(batch, count * self.rank, count)

    # -- sums and exchanges; all processes get the same bits

    def total(self, values: torch.Tensor) -> torch.Tensor:
        """The sum over all processes. No gradient flows through it."""
        if not self.speaks or values.is_meta:
            return values
        return _sum(values, self.board)

    def mean(self, values: Sequence[float]) -> list[float]:
        """The mean over all processes of each of a few numbers."""
        if not self.speaks:
            return list(values)
        sums = _sum(torch.tensor(values, dtype=torch.float64), self.board)
        return [float(value) / self.size for value in sums]

    def average(self, gradients: Sequence[torch.Tensor], also: Sequence[float]) -> list[float]:
        """Replace each gradient by its mean over all processes, in one message. Returns the means of `also`."""
        if not self.speaks:
            return list(also)
        if not gradients:
            return self.mean(also)
        device = gradients[0].device
        flat = torch.cat([*(g.reshape(-1) for g in gradients), torch.tensor(also, device=device)])
        flat = _sum(flat, self.board) / self.size
        start = 0
        for gradient in gradients:
            gradient.copy_(flat[start : start + gradient.numel()].view(gradient.shape))
            start += gradient.numel()
        return [float(value) for value in flat[start:].cpu()]

    def rows_of_all(self, values: torch.Tensor) -> torch.Tensor:
        """The values of all processes in the order of their ranks, concatenated along the first axis."""
        if not self.speaks:
            return values
        if self.board is not None and self.board.takes(values):
            return self.board.of_all(values).flatten(0, 1)
        values = values.detach().contiguous()
        parts = [torch.empty_like(values) for _ in range(self.size)]
        dist.all_gather(parts, values)
        return torch.cat(parts)

    def statistics(self, mean: torch.Tensor, variance: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Mean and variance (C,) of the rows of all processes, from those of this one; each has equally many rows."""
        # The mean variance of the parts plus the variance of their means is the variance of the whole, without the loss
        # of digits of E[x^2] - E[x]^2.
        parts = self.rows_of_all(torch.stack([mean, variance])[None]).double()
        whole = parts[:, 0].mean(0)
        return whole.float(), (parts[:, 1].mean(0) + (parts[:, 0] - whole).square().mean(0)).float()

    @torch.no_grad()
    def spread(self, tensors: Sequence[torch.Tensor]) -> None:
        """Copy the first process's values to all others."""
        if self.speaks:
            for tensor in tensors:
                values = tensor.detach().contiguous()
                dist.broadcast(values, 0)
                if not self.is_first:
                    tensor.copy_(values)

    def spread_value(self, value: T) -> T:
        """The first process's `value`, in all processes. It has to be small and of Python's own types."""
        if not self.speaks:
            return value
        box = [value]
        dist.broadcast_object_list(box, 0)
        return box[0]

    def values_of_all(self, value: T) -> list[T]:
        """Each process's `value`, by rank. It has to be small and of Python's own types."""
        if not self.speaks:
            return [value]
        box: list[Any] = [None] * self.size
        dist.all_gather_object(box, value)
        return box


def outside_of_graphs(function: F) -> F:
    """A decorator that keeps communication with other processes out of the graphs that `torch.compile` makes.

    `torch.compiler.disable` does that, but importing it takes a second, which only compiled trainings should spend.
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
def _sum(values: torch.Tensor, board: Board | None) -> torch.Tensor:
    if board is not None and board.takes(values):
        return board.of_all(values).sum(0)
    values = values.detach().clone()
    dist.all_reduce(values)
    return values


ALONE = Group()
