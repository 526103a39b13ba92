"""A split as it stands in a net: which layers play which part in it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal, Union

from caffe_split.split.kinds import KindName

Role = Literal["fast", "slow", "added"]


@dataclass(frozen=True, eq=False)
class Split:
    """A split in a list of layers; all numbers are indices into that list.

    `fast`, `slow` and those of `added` (by their words) are convolutions, or splits of these in turn. `total` is the
    sum, where the kind has one; `last` gives `exit`: the reorder, or the end of the slow half where X was not divided;
    then there is no `fast` and no `concat`. `between` are layers in place on the way, such as branch normalisation. All
    of it reads `entry`, which layer `source` wrote (None: nothing in the net).
    """

    origin: str
    kind: KindName
    fast: Member | None
    slow: Member
    added: Mapping[str, Member]
    total: int | None
    concat: int | None
    last: int
    between: tuple[int, ...]
    entry: str
    source: int | None
    exit: str

    @property
    def reorder(self) -> int | None:
        """The convolution that puts both halves in order, where X was divided."""
        return None if self.concat is None else self.last

    @property
    def halves(self) -> tuple[Member, ...]:
        """The fast and the slow half; the slow one alone where X was not divided."""
        return (self.slow,) if self.fast is None else (self.fast, self.slow)

    @property
    def convolutions(self) -> dict[Member, Role]:
        """Its own convolutions, or the splits of these, with their roles."""
        roles: dict[Member, Role] = {} if self.fast is None else {self.fast: "fast"}
        roles[self.slow] = "slow"
        roles.update(dict.fromkeys(self.added.values(), "added"))
        return roles

    @property
    def inside(self) -> tuple[Split, ...]:
        """The splits of its own convolutions."""
        return tuple(each for each in self.convolutions if isinstance(each, Split))

    @property
    def own(self) -> frozenset[int]:
        """Its layers, without those of splits inside it."""
        convolutions = (each for each in self.convolutions if not isinstance(each, Split))
        joins = (each for each in (self.total, self.concat, self.last) if each is not None)
        return frozenset((*convolutions, *self.between, *joins))

    @property
    def members(self) -> frozenset[int]:
        """All its layers, those of splits inside it among them."""
        return self.own.union(*(each.members for each in self.inside))

    @property
    def roles(self) -> dict[int, Role]:
        """The roles of its own convolutions."""
        roles: dict[int, Role] = {} if self.reorder is None else {self.reorder: "added"}
        roles.update({each: role for each, role in self.convolutions.items() if not isinstance(each, Split)})
        return roles

    def role_inside(self, inner: Split) -> Role:
        """The role of a split inside this one."""
        return self.convolutions[inner]


Member = Union[int, Split]


def last_layer(member: Member) -> int:
    """The layer that gives a member's output."""
    return member.last if isinstance(member, Split) else member
