"""How processes find each other: from the environment that torchrun or `--processes` sets, to a `Group`."""

from __future__ import annotations

import datetime
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
import torch.distributed as dist

from caffe_split.engine.device import choose_device
from caffe_split.engine.parallel.group import Group
from caffe_split.engine.parallel.peers import JOIN, Watch
from caffe_split.errors import CaffeSplitError

NAMES = ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT")
# How long a process waits for the others in a collective operation; they may compile, or write to a slow disk.
_PATIENCE = datetime.timedelta(minutes=60)


@dataclass(frozen=True)
class Seat:
    """A process's place among all.

    It is number `rank` of `size`, and number `local` of the `beside` processes on this machine; `host` is the
    machine of the first process.
    """

    rank: int
    size: int
    local: int
    beside: int
    host: str


def seat(environment: Mapping[str, str] = os.environ) -> Seat | None:
    """The seat that the environment variables give; None for a single process.

    Raises `CaffeSplitError` where some of the variables are missing or do not fit together.
    """
    given = [name for name in NAMES if environment.get(name)]
    if not set(given) & {"RANK", "WORLD_SIZE"}:
        return None
    if len(given) < len(NAMES):
        missing = " and ".join(name for name in NAMES if name not in given)
        raise CaffeSplitError(
            f"{' and '.join(given)} in the environment, but no {missing}: start several processes with torchrun or "
            f"--processes, or unset {given[0]} for one"
        )
    try:
        rank, size, local = (int(environment[name]) for name in NAMES[:3])
        beside = int(environment.get("LOCAL_WORLD_SIZE", local + 1))
        int(environment["MASTER_PORT"])
    except ValueError as error:
        raise CaffeSplitError(f"the environment's {', '.join(NAMES)}: {error}") from None
    if not 0 <= rank < size or not 0 <= local < size:
        raise CaffeSplitError(f"RANK {rank} and LOCAL_RANK {local} in the environment do not fit WORLD_SIZE {size}")
    return Seat(rank, size, local, max(beside, local + 1), environment["MASTER_ADDR"]) if size > 1 else None


def device_for(seat: Seat, asked: str | None, solver: str) -> torch.device:
    """This process's own device: on CUDA number `seat.local`; the solver's device_id does not count.

    `asked` and `solver` are as in `choose_device`. Raises `CaffeSplitError` where there are too few devices.
    """
    device = choose_device(asked, solver)
    if device.type == "cpu":
        return device
    count = torch.cuda.device_count()
    if seat.beside > count:
        raise CaffeSplitError(
            f"{seat.beside} processes on this machine, and PyTorch sees {count} CUDA device{'s' * (count > 1)}; start "
            f"at most {count} on it, or give --device cpu"
        )
    torch.cuda.set_device(seat.local)
    return torch.device("cuda", seat.local)


class Meeting:
    """The processes of a training, from finding each other to their end.

    `say` writes the line that says why all end. Raises `CaffeSplitError` where the others do not come.
    """

    def __init__(self, seat: Seat, say: Callable[[str], None]) -> None:
        self.seat = seat
        try:
            found = next(dist.rendezvous("env://", timeout=datetime.timedelta(seconds=JOIN)))
        except RuntimeError as error:
            raise CaffeSplitError(
                f"the {seat.size} processes do not come together at {seat.host}:{os.environ['MASTER_PORT']}: "
                f"{str(error).splitlines()[0]}"
            ) from None
        self._store = dist.PrefixStore("caffe_split", found[0])
        self.watch = Watch(seat.rank, seat.size, self._store, seat.host, say)

    def group(self, device: torch.device, *, multiply: bool, sync_norms: bool) -> Group:
        """Connect for computing on `device`; options as in `Group`. Raises `CaffeSplitError` where that fails."""
        backend = "gloo" if device.type == "cpu" else "cpu:gloo,cuda:nccl"
        try:
            dist.init_process_group(
                backend,
                store=dist.PrefixStore("torch", self._store),
                rank=self.seat.rank,
                world_size=self.seat.size,
                timeout=_PATIENCE,
            )
        except RuntimeError as error:
            raise CaffeSplitError(
                f"process {self.seat.rank} does not get through to the others ({backend}): "
                f"{str(error).splitlines()[0]}; GLOO_SOCKET_IFNAME and NCCL_SOCKET_IFNAME choose the network"
            ) from None
        return Group(self.seat.rank, self.seat.size, multiply=multiply, sync_norms=sync_norms)

    def leave(self) -> None:
        """Say that this process is done, and disconnect."""
        self.watch.leave()
        dist.destroy_process_group()
