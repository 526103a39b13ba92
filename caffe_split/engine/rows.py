"""The rows of a batch that one process takes."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Rows:
    """The part of a batch of `whole` records that a process takes: `count` records from `first` on."""

    whole: int
    first: int
    count: int

    @property
    def slice(self) -> slice:
        """These rows as an index into the whole batch."""
        return slice(self.first, self.first + self.count)
