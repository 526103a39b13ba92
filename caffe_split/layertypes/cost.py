"""What a net costs: its parameters, and its multiply-adds for one image."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from caffe_split.errors import CaffeSplitError
from caffe_split.layertypes.shapes import NetShapes, infer_shapes
from caffe_split.net.training import open_training
from caffe_split.net.which_net import solvers_in

WHAT = ("parameters", "multiply-adds per image")


@dataclass(frozen=True)
class Cost:
    """Number of parameters and of multiply-adds; None where a shape is not known.

    Parameters include frozen ones (lr_mult 0), but neither BatchNorm's statistics nor TPM state. Multiply-adds are
    those of convolutions, inner products and recurrent layers for one image. `least` has both numbers for the layers
    of which they are known, and `unknown` the names of the other layers.
    """

    parameters: int | None
    macs: int | None
    least: tuple[int, int] = (0, 0)
    unknown: tuple[str, ...] = ()

    @classmethod
    def of(cls, shapes: NetShapes) -> Cost:
        """The cost of a net of these shapes."""
        least = shapes.least_parameters, shapes.least_macs
        return cls(shapes.parameter_count, shapes.mac_count, least, tuple(shapes.unknown))

    def as_dict(self) -> dict[str, int | None]:
        """The two numbers as JSON has them."""
        return {"parameters": self.parameters, "macs": self.macs}

    def texts(self) -> tuple[str, str]:
        """Both numbers for a reader: `1,000`; `at least 1,000`, or `?`, where layers are not known."""
        parameters, macs = (
            f"{count:,}" if count is not None else f"at least {least:,}" if least else "?"
            for count, least in zip((self.parameters, self.macs), self.least)
        )
        return parameters, macs


def changes(before: Cost, after: Cost) -> list[str]:
    """What becomes of parameters and multiply-adds, a line each, and a line that names the layers left out of them."""
    lines = []
    numbers = ((before.parameters, after.parameters), (before.macs, after.macs))
    for what, texts, (first, second) in zip(WHAT, zip(before.texts(), after.texts()), numbers):
        lines.append(f"{what} {texts[0]} -> {texts[1]}{_factor(first, second)}")
    unknown = list(dict.fromkeys((*before.unknown, *after.unknown)))
    if unknown:
        lines.append(f"the totals are without {listing(unknown)}")
    return lines


def change(before: int | None, after: int | None) -> str:
    """`1,000 -> 1,200 (x1.200)`; a question mark for a number that is not known."""
    texts = " -> ".join("?" if count is None else f"{count:,}" for count in (before, after))
    return f"not known: {texts}" if "?" in texts else texts + _factor(before, after)


def _factor(before: int | None, after: int | None) -> str:
    return f" (x{after / before:.3f})" if before and after is not None else ""


def listing(names: Sequence[str], most: int = 12) -> str:
    """The first names, and the number of the others."""
    return ", ".join(names[:most]) + (f" and {len(names) - most} more" if len(names) > most else "")


def cost_beside(log: Path) -> Cost:
    """The cost of the net whose training wrote `log`: the net of the solvers in the folder of the log.

    Raises `CaffeSplitError` where there is no solver, or where several train nets of different costs, and as
    `open_training`.
    """
    solvers = [path for path, _ in solvers_in(log.parent)]
    if not solvers:
        raise CaffeSplitError("what its net costs is not known: there is no solver in its folder.")
    costs = {path: Cost.of(infer_shapes(open_training(path).train_layers())) for path in solvers}
    if any(cost != next(iter(costs.values())) for cost in costs.values()):
        each = ", ".join(f"{path} {' / '.join(cost.texts())}" for path, cost in costs.items())
        raise CaffeSplitError(
            f"what its net costs is not known: the nets of the solvers in its folder differ ({each}); keep each "
            "training in a folder of its own."
        )
    return next(iter(costs.values()))
