"""What watching weights with TPM layers costs: memory in training, and bytes per snapshot."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

from caffe_split.net.resume import HISTORIES
from caffe_split.net.tpm_state import RESULT, state_shapes


@dataclass(frozen=True)
class WatchCost:
    """What watching costs: the layers watched, how many weights they have, and additional bytes.

    `memory_bytes` are those in training, `snapshot_bytes` those per caffemodel, `state_bytes` those per solverstate.
    Two copies of each weight are kept, and for each of them what the solver keeps for any parameter: a gradient
    and its history. A caffemodel holds the shared weight once more (HDF5 does not), both copies, and the results.
    """

    layers: tuple[str, ...]
    weights: int
    memory_bytes: int
    snapshot_bytes: int
    state_bytes: int

    # Beyond this a series of snapshots costs less.
    LIMIT: ClassVar[int] = 256 * 2**20

    def __str__(self) -> str:
        text = (
            f"watched: {', '.join(self.layers)}; {self.weights:,} weights, "
            f"{self.memory_bytes / 2**20:.2f} MiB more memory, {self.snapshot_bytes / 2**20:.2f} MiB more a "
            f"caffemodel, {self.state_bytes / 2**20:.2f} MiB more a solverstate"
        )
        if self.snapshot_bytes + self.state_bytes > self.LIMIT:
            text += (
                "; that is much: a series of snapshots over the window and `caffe-split tpm --window` show the same "
                "without TPM layers, or watch fewer layers (--layers)"
            )
        return text


def watch_cost(shapes: Mapping[str, Sequence[int]], windows: int, solver: str = "SGD", hdf5: bool = False) -> WatchCost:
    """The cost of watching weights of these shapes (layer -> shape) over `windows` windows by this type of solver."""
    weights = sum(math.prod(shape) for shape in shapes.values())
    results = sum(math.prod(blob) for shape in shapes.values() for blob in state_shapes(shape, windows)[RESULT:])
    histories = HISTORIES.get(solver, 1)
    return WatchCost(
        tuple(shapes),
        weights,
        4 * (2 + histories) * (2 * weights + results),
        4 * ((2 if hdf5 else 3) * weights + results),
        4 * histories * (2 * weights + results),
    )
