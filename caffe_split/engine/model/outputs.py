"""The outputs of a net, blobs that nobody reads, as numbers and as the log's lines."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from caffe_split.engine.log import number
from caffe_split.engine.model.net import Net


def values_of(blob: torch.Tensor) -> list[float]:
    """A blob's values in their order."""
    return [float(value) for value in blob.detach().reshape(-1).tolist()]


def output_lines(net: Net, what: str, values: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """solver.cpp's lines of the outputs of a net; what: Train or Test; values: by output."""
    pairs = [(name, value) for name in net.outputs for value in values[name]]
    for index, (name, value) in enumerate(pairs):
        weight = net.loss_weights.get(name)
        share = f" (* {number(weight)} = {number(weight * value)} loss)" if weight else ""
        yield f"    {what} net output #{index}: {name} = {number(value)}{share}"
