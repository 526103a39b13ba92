"""What a training logs of losses and of a net's outputs."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch

from caffe_split.engine.log import number
from caffe_split.engine.model.net import Net


def values_of(blob: torch.Tensor) -> list[float]:
    """The values of a blob as one list."""
    return [float(value) for value in blob.detach().reshape(-1).tolist()]


def output_lines(net: Net, what: str, values: Mapping[str, Sequence[float]]) -> Iterator[str]:
    """Caffe's log lines for the outputs of a net.

    what: "Train" or "Test". values: the values of each output by name, as `values_of` gives them.
    """
    pairs = [(name, value) for name in net.outputs for value in values[name]]
    for index, (name, value) in enumerate(pairs):
        weight = net.loss_weights.get(name)
        share = f" (* {number(weight)} = {number(weight * value)} loss)" if weight else ""
        yield f"    {what} net output #{index}: {name} = {number(value)}{share}"


class SmoothedLoss:
    """The mean of the last `length` losses (average_loss), computed incrementally as in Caffe's UpdateSmoothedLoss."""

    def __init__(self, length: int) -> None:
        self.value = 0.0
        self._length = length
        self._losses: list[float] = []

    def add(self, loss: float, done: int) -> None:
        """Add the loss of an iteration; `done` is the number of iterations before it."""
        if len(self._losses) < self._length:
            self._losses.append(loss)
            count = len(self._losses)
            self.value = (self.value * (count - 1) + loss) / count
        else:
            place = done % self._length
            self.value += (loss - self._losses[place]) / self._length
            self._losses[place] = loss
