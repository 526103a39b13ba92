"""Partial folding: small branches go into X_split2, the others stay, so that a next round starts from fewer."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from caffe_split.formats import prototxt
from caffe_split.net.graph import Graph
from caffe_split.split.affine import CannotFoldError
from caffe_split.split.standing import Standing, StandingBranch, absorbed, standing
from caffe_split.split.wired import Split
from caffe_split.tpm.layers import remove_watchers


@dataclass(frozen=True)
class TrimmedSplit:
    """A split some of whose branches went into its slow half.

    `gone` and `left`: the branches' last convolutions and their shares, the length of a branch's kernel relative to
    that of the whole slow half's. `changed`: the blobs of the slow half, which now compute more.
    """

    name: str
    gone: dict[str, float]
    left: dict[str, float]
    changed: tuple[str, ...]

    def __str__(self) -> str:
        return f"{self.name}: {shares(self.gone)} into the slow half; {shares(self.left)} stay"


def shares(branches: Mapping[str, float]) -> str:
    """The branches with their shares, for a reader."""
    return ", ".join(f"{name} ({share:.3g})" for name, share in branches.items())


@dataclass(frozen=True)
class Trim:
    """What trimming one split comes to: its places, each the document's number and the slow half there."""

    stem: str
    places: tuple[tuple[int, Standing], ...]
    limit: float

    @property
    def gone(self) -> list[StandingBranch]:
        """The branches, in the first place, whose share is below the limit."""
        return [branch for branch in self.places[0][1].branches if branch.share < self.limit]

    @property
    def is_whole(self) -> bool:
        """Whether no branch would be left."""
        return len(self.gone) == len(self.places[0][1].branches)

    @property
    def trimmed(self) -> TrimmedSplit:
        """The result."""
        every = {branch.name: branch.share for branch in self.places[0][1].branches}
        gone = {branch.name: branch.share for branch in self.gone}
        left = {name: share for name, share in every.items() if name not in gone}
        layers = (layer for _, place in self.places for layer in (place.slow, *place.norms))
        return TrimmedSplit(self.stem, gone, left, tuple(dict.fromkeys(top for layer in layers for top in layer.tops)))

    def blobs(self, blobs: Mapping[str, Sequence[np.ndarray]]) -> dict[str, list[np.ndarray]]:
        """The blobs without the branches that go."""
        changed = absorbed(self.places[0][1], self.gone, blobs)
        names = {layer.name for branch in self.gone for layer in branch.layers}
        return {name: changed.get(name, list(values)) for name, values in blobs.items() if name not in names}

    def edit(self, document: prototxt.Document, number: int) -> None:
        """Take the branches out of the document of that number."""
        names = {branch.name for branch in self.gone}
        for at, place in self.places:
            gone = [branch for branch in place.branches if branch.name in names] if at == number else []
            layers = [layer for branch in gone for layer in branch.layers]
            remove_watchers(document, [layer.name for layer in layers])
            for layer in layers:
                document.remove(layer.field, keep_blank=False)
            blobs = {branch.blob for branch in gone}
            message = place.total.message
            for field, blob in zip(message.all_fields("bottom"), message.get_all("bottom")):
                if blob in blobs:
                    message.remove(field)


def trim(
    graphs: Sequence[Graph],
    splits: Sequence[Sequence[Split]],
    blobs: Mapping[str, Sequence[np.ndarray]],
    limit: float,
) -> Trim:
    """What trimming the splits of one layer in each document comes to.

    Raises `CannotFoldError` where a split has no branches beside its slow half, where none of them is below the limit,
    or where the documents differ.
    """
    places = tuple(
        (number, standing(graph, split, blobs)) for number, graph in enumerate(graphs) for split in splits[number]
    )
    first = places[0][1]
    for _, place in places[1:]:
        same = [branch.name for branch in place.branches] == [branch.name for branch in first.branches] and all(
            np.allclose(one.kernels.weight, other.kernels.weight) for one, other in zip(place.branches, first.branches)
        )
        if not same:
            raise CannotFoldError("the nets put its layers together differently")
    origin = next(split.origin for each in splits for split in each)
    found = Trim(origin, places, limit)
    if not found.gone:
        raise CannotFoldError(f"no branch has a share below {limit:g}: {shares(found.trimmed.left)}")
    if not found.is_whole:
        absorbed(first, found.gone, blobs)
    return found
