"""Logs into which several processes wrote, with their ranks before each line, as MPI's and Slurm's launchers do it."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

from caffe_split.errors import CaffeSplitError
from caffe_split.files import PathLike

if TYPE_CHECKING:
    import numpy as np

    from caffe_split.trainlog.run import Run

# Each has one group: the rank.
_TAGS = (
    rb"\[(?:default|rank ?)?(\d{1,6})\]:? ?",  # mpirun -l of MPICH and Intel, torchrun
    # mpirun --tag-output of Open MPI, with --timestamp-output behind the date
    rb"(?:\w{3} \w{3} [ \d]\d \d\d:\d\d:\d\d \d{4})?\[[^\],\s]{1,200},(\d{1,6})\]<std(?:out|err|diag)>: ?",
    rb" *(\d{1,6}): ",  # srun --label
    rb"[Rr]ank ?(\d{1,6})[:|]? ",
    rb"[\w.-]{1,200}[-_](\d{1,6}) +\| ?",  # docker compose: the service and the number of its container
)
_PREFIX = rb"[IWEF](?:\d{8}|\d{4}) \d\d:\d\d:\d\d"
_PATTERNS = [re.compile(tag) for tag in _TAGS]
_BEGINS = [re.compile(tag + rb"(?=" + _PREFIX + rb")") for tag in _TAGS]
_ANY = re.compile(rb"^(?:" + rb"|".join(_TAGS) + rb")(?=" + _PREFIX + rb")", re.MULTILINE)
_NOT_FINITE = re.compile(rb"loss = [-+]?(?:nan|inf|1\.#)", re.IGNORECASE)


def tagged(lines: bytes) -> bool:
    """Whether any of the lines has a rank in front of a prefix of glog."""
    return _ANY.search(lines) is not None


def check_rank(path: PathLike, ranks: RankFilter, rank: int | None) -> None:
    """Raises `CaffeSplitError` if `rank` is none of those that wrote into the log."""
    if rank is not None and rank not in ranks.seen:
        what = f"it has {_ranges(sorted(ranks.seen))}" if ranks.seen else "no rank stands before its lines"
        raise CaffeSplitError(f"{path} has no rank {rank}: {what}")


class RankFilter:
    """The lines of one rank, without its tag; the others become empty, so that the numbers of lines stay.

    rank: the one that is kept; None: that of the first tagged line. Lines before the first tagged one, and lines
    without a tag, are kept. seen: all ranks. not_finite: the other ranks that printed a loss that is no number.
    """

    def __init__(self, rank: int | None) -> None:
        self.rank = rank
        self.seen: set[int] = set()
        self.not_finite: set[int] = set()
        self._tag: re.Pattern[bytes] | None = None

    def lines(self, whole: bytes) -> bytes:
        """The same for whole lines, each with its line feed."""
        return b"\n".join(map(self._line, whole.split(b"\n")))

    def _line(self, line: bytes) -> bytes:
        if self._tag is None:
            self._tag = next((tag for tag, begin in zip(_PATTERNS, _BEGINS) if begin.match(line)), None)
        found = self._tag.match(line) if self._tag else None
        if found is None:
            return line
        rank = int(found[1])
        self.seen.add(rank)
        if self.rank is None:
            self.rank = rank
        if rank == self.rank:
            return line[found.end() :]
        if _NOT_FINITE.search(line):
            self.not_finite.add(rank)
        return b""

    @property
    def notes(self) -> list[str]:
        """What to say of the ranks that are not shown."""
        others = sorted(self.seen - {self.rank})
        if not others:
            return []
        count = f"{len(self.seen)} ranks wrote into it ({_ranges(sorted(self.seen))})"
        notes = [f"{count}; shown is rank {self.rank}, --rank N shows another"]
        if self.not_finite:
            many = "s" if len(self.not_finite) > 1 else ""
            notes.append(f"the loss of rank{many} {_ranges(sorted(self.not_finite))} has become nan or inf")
        return notes


# Rows of a table in which repetitions are sought, and rows that a run at least has unless another process cuts it.
_ENOUGH, _SHORT = 10_000, 8


def mixed_note(runs: Sequence[Run]) -> str:
    """What to say of a log into which several processes seem to have written without ranks before the lines; else "".

    In step, each displays the same iterations; out of step, iterations go back again and again, without a new start.
    """
    repeated = max((int((found[1:] == found[:-1]).sum()) for run in runs for found in _iterations(run)), default=0)
    cut = [run for run in runs if len(run.displays) <= _SHORT and not run.of_kind("start", "header", "solving")]
    if repeated < 2 and len(cut) < 3:
        return ""
    return (
        "iterations repeat, or go back without a new start: several processes seem to have written into it, and their "
        "rows are mixed. Give each a log of its own, or have the launcher put ranks before the lines (mpirun -l, "
        "--tag-output, srun --label)"
    )


def _iterations(run: Run) -> Iterator[np.ndarray]:
    for table in (run.displays, *run.tests.values()):
        for part in table.parts:
            yield part.head(_ENOUGH).iteration


def _ranges(numbers: list[int]) -> str:
    """E.g. `0-3, 7`."""
    parts: list[list[int]] = []
    for number in numbers:
        if parts and number == parts[-1][1] + 1:
            parts[-1][1] = number
        else:
            parts.append([number, number])
    return ", ".join(str(first) if first == last else f"{first}-{last}" for first, last in parts)
