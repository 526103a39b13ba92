"""`caffe_split.load`: a Caffe net as a PyTorch module."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from caffe_split.engine.require import require_torch
from caffe_split.files import PathLike
from caffe_split.formats.prototxt.nets import read_net
from caffe_split.formats.weights.caffemodel import read_weights

if TYPE_CHECKING:
    from caffe_split.engine.model.module import Module


def load(
    net: PathLike,
    weights: PathLike | None = None,
    *,
    inputs: Mapping[str, Sequence[int]] | None = None,
    stages: Sequence[str] = (),
    level: int = 0,
    seed: int = 0,
) -> Module:
    """A Caffe net as a `torch.nn.Module`, in evaluation mode; `engine.model.module.Module` says what it can do.

        net = caffe_split.load("deploy.prototxt", "some.caffemodel")
        scores = net(images)["prob"]

    Args:
        net: the prototxt; an old one is brought to today's form.
        weights: a .caffemodel or an HDF5 file. Without it, parameters have the values of their fillers.
        inputs: shapes by blob, in place of those that are written. A net with data layers takes its batches from the
            caller; the shapes of these are needed where no data set gives them.
        stages: stages of the net, as of a solver's train_state.
        level: level of the net.
        seed: of the fillers.

    Raises `CaffeSplitError` where PyTorch is missing, with all that the engine does not compute, for weights that do
    not fit, and for layers without weights in the file that the TEST phase has.

    >>> import os, tempfile
    >>> path = os.path.join(tempfile.mkdtemp(), "net.prototxt")
    >>> with open(path, "w") as stream:
    ...     _ = stream.write('''
    ...         layer { name: "x" type: "Input" top: "x" input_param { shape { dim: 1 dim: 3 } } }
    ...         layer { name: "double" type: "Power" bottom: "x" top: "y" power_param { scale: 2 } }
    ...     ''')
    >>> module = load(path)
    >>> import torch
    >>> module(torch.tensor([[1.0, 2.0, 3.0], [4.0, 5.0, 6.0]]))["y"].tolist()
    [[2.0, 4.0, 6.0], [8.0, 10.0, 12.0]]
    """
    require_torch()
    from caffe_split.engine.model.module import Module
    from caffe_split.net.state import NetState

    document = read_net(net, upgrade=True)
    shapes = {name: tuple(int(length) for length in shape) for name, shape in (inputs or {}).items()}
    read = read_weights(weights) if weights is not None else None
    return Module(document, read, inputs=shapes, state=NetState("TEST", tuple(stages), level), seed=seed).eval()
