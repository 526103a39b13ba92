"""How a net is exported."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from caffe_split.net.state import TEST, NetState

# The oldest version of ONNX's operators for which the exporters write, and the one that is taken by default: both are
# read by the runtimes of 2022 and later.
OLDEST_OPSET, OPSET = 13, 17


@dataclass(frozen=True)
class ExportOptions:
    """How a net is exported.

    opset: the version of ONNX's operators. dynamic: what may vary, of batch, height and width; all inputs vary
    together. fold_batch_norm: merge BatchNorm and Scale into the convolutions before them. half: compute in float16;
    inputs and outputs stay float32. with_transform: mean and scale of the data layer are part of the graph;
    transform_of: those of this net's data layer, for a deploy net, which has none. blobs: further outputs. inputs:
    shapes of inputs, in place of those that are written. state: the phase, with stages and level. caffe_proto: the
    schema of the fork that the net is for.
    """

    opset: int = OPSET
    dynamic: tuple[str, ...] = ()
    fold_batch_norm: bool = False
    half: bool = False
    with_transform: bool = False
    transform_of: Path | None = None
    blobs: tuple[str, ...] = ()
    inputs: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    state: NetState = TEST
    caffe_proto: Path | None = None


@dataclass(frozen=True)
class CheckOptions:
    """How a model is checked: against which back end, on how many random inputs, and how far apart may they lie.

    count: the number of random inputs; 0: the model is not checked. engine: the name of a back end, by default the
    first that is installed. tolerance: relative to a blob's largest value; None: 1e-4, and 1e-2 in half precision.
    seed: of the inputs.
    """

    count: int = 1
    engine: str | None = None
    tolerance: float | None = None
    seed: int = 0
