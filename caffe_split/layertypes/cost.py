"""What a net costs: its parameters, and its multiply-adds for one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.shapes import NetShapes, infer_shapes
from caffe_split.net.layers import phase_layers
from caffe_split.net.state import TRAIN
from caffe_split.net.training import open_training, solvers_in


@dataclass(frozen=True)
class Cost:
    """Parameters and multiply-adds; None where a shape could not be told.

    Parameters count frozen ones (lr_mult 0) too, BatchNorm's statistics and TPM state not. Multiply-adds are
    those of convolutions and inner products for one image.
    """

    parameters: int | None
    macs: int | None

    @classmethod
    def of(cls, shapes: NetShapes) -> Cost:
        return cls(shapes.parameter_count, shapes.mac_count)


def cost_beside(log: Path) -> Cost:
    """The cost of the net that was trained into `log`: that of the only solver in the log's folder.

    Raises `CaffeSplitError` where there is none, or more than one.
    """
    solvers = [path for path, _ in solvers_in(log.parent)]
    if len(solvers) != 1:
        found = ", ".join(map(str, solvers)) or "none"
        raise CaffeSplitError(f"{log}: its net is told by the one solver in its folder; found: {found}.")
    return Cost.of(infer_shapes(phase_layers(open_training(solvers[0]).net, TRAIN)))
