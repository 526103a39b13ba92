"""What a net costs: its parameters, and its multiply-adds for one image."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.shapes import NetShapes, infer_shapes
from caffe_split.net.training import open_training, solvers_in


@dataclass(frozen=True)
class Cost:
    """Number of parameters and of multiply-adds; None where a shape is not known.

    Parameters include frozen ones (lr_mult 0), but neither BatchNorm's statistics nor TPM state. Multiply-adds are
    those of convolutions, inner products and recurrent layers for one image.
    """

    parameters: int | None
    macs: int | None

    @classmethod
    def of(cls, shapes: NetShapes) -> Cost:
        """The cost of a net of these shapes."""
        return cls(shapes.parameter_count, shapes.mac_count)


def cost_beside(log: Path) -> Cost:
    """The cost of the net whose training wrote `log`: the net of the only solver in the folder of the log.

    Raises `CaffeSplitError` where there is no solver, or more than one.
    """
    solvers = [path for path, _ in solvers_in(log.parent)]
    if len(solvers) != 1:
        found = ", ".join(map(str, solvers)) or "none"
        raise CaffeSplitError(f"{log}: its net is that of the one solver in its folder; solvers found: {found}.")
    return Cost.of(infer_shapes(open_training(solvers[0]).train_layers()))
