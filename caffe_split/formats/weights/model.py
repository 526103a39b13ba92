"""What a snapshot holds, as values: `Weights` and `SolverState`, the same for every kind of file."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Array = np.ndarray[Any, np.dtype[np.float32]]


class Weights(Mapping[str, "list[Array]"]):
    """The weights of a file: layer name -> list of float32 arrays, shapes as stored, read when asked for.

    Every layer of the file is a key, those without weights with an empty list. Arrays are read-only views of
    the mapped file (copy them to change them); files with unpacked or double values, and HDF5 files, give
    copies. `types` maps layer names to layer types, `net_name` is the net's name. `shared` counts, for layers of an
    HDF5 file, the blobs that it leaves out because an earlier layer has them; these are arrays of shape (0,).
    """

    def __init__(self, path: str, net_name: str, types: dict[str, str]) -> None:
        self.path = path
        self.net_name = net_name
        self.types = types
        self.shared: dict[str, int] = {}

    def __iter__(self) -> Iterator[str]:
        return iter(self.types)

    def __len__(self) -> int:
        return len(self.types)

    def __contains__(self, name: object) -> bool:
        return name in self.types

    def release(self, name: str) -> None:
        """Say that a layer is not needed for now: the memory into which its part of the file is mapped may go."""

    def __repr__(self) -> str:
        return f"<Weights of {self.path}: {len(self)} layers>"


@dataclass(frozen=True)
class SolverState:
    """Where a training stood.

    `iter` is the iteration, `learned_net` the weights file saved with it, `current_step` the count of rate
    changes so far, and `history` the solver's arrays (for SGD one per weight, in the order of the net's
    learnable weights; for Adam and AdaDelta two), float32 in their stored shapes. `unknown` holds the bytes
    of fields that BVLC's Caffe does not have; they are written back.
    """

    iter: int
    learned_net: str = ""
    current_step: int = 0
    history: Sequence[Any] = field(default_factory=list)
    unknown: bytes = b""


def nonfinite(weights: Mapping[str, Sequence[Any]]) -> dict[str, list[tuple[int, int]]]:
    """NaN and infinite weights: layer -> for each blob (values not finite, all values). Clean layers are left out.

    >>> import numpy as np
    >>> nonfinite({"a": [np.ones(3)], "b": [np.array([1.0, np.nan, np.inf]), np.zeros(2)]})
    {'b': [(2, 3), (0, 2)]}
    """
    report = {}
    for name in weights:
        counts = []
        for array in weights[name]:
            flat = np.asarray(array).reshape(-1)
            step = 1 << 22  # in pieces: a mask as big as the biggest layer is not needed
            bad = sum(int((~np.isfinite(flat[i : i + step])).sum()) for i in range(0, flat.size, step))
            counts.append((bad, int(flat.size)))
        if any(bad for bad, _ in counts):
            report[name] = counts
    return report
