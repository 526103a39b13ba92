"""Layers that carry a state from one time step to the next, as Caffe's unrolled nets compute them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill
from caffe_split.layertypes.records.recurrent import exposed_count, state_count


class _Recurrent(Layer):
    """A layer over x (time, streams, ...) and marks (time, streams), which are 0 where a sequence begins.

    A third bottom (streams, ...), if there is one, is a static input to every step. The state begins with zeros and
    goes on from one batch to the next, unless expose_hidden makes it bottoms and tops. As in Caffe, no gradient leaves
    a batch: neither the marks nor the states from outside get one, and the states given to the outside pass none on.

    Attributes:
        state: the values that the last batch left, each (streams, num_output).
        is_static: whether there is a static input.
    """

    options_name = "recurrent_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        self.exposed = exposed_count(self.text)
        self.is_static = len(bottoms) > 2 + self.exposed
        found = self.inferred(bottoms)
        self.blobs = [
            fill(
                shape,
                self.options.sub("bias_filler" if len(shape) == 1 else "weight_filler"),
                self.place.generator,
            )
            for shape in found.params
        ]
        _, streams, count = found.tops[0]
        self.state = [torch.zeros(streams, count, device=self.place.device) for _ in range(state_count(self.text))]

    @override
    def multiply_adds(self, bottoms: Sequence[Shape]) -> int:
        return self.inferred(bottoms).macs

    @override
    def refit(self, bottoms: Sequence[Shape]) -> None:
        raise self.error(f"bottoms of other shapes than before, {', '.join(map(str, bottoms))}; it carries a state.")

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        # Sums over many steps: in float32, whatever the precision of the layers around.
        with torch.autocast(bottoms[0].device.type, enabled=False):
            x, marks = bottoms[0], bottoms[1].detach()
            outside = bottoms[len(bottoms) - self.exposed :] if self.exposed else ()
            state = [each.detach()[0] for each in outside] or [each.to(x) for each in self.state]
            weights = list(self.blobs)
            steps = functional.linear(x.reshape(x.shape[0] * x.shape[1], -1), weights[0], weights[1])
            steps = steps.view(*x.shape[:2], -1)
            if self.is_static:
                steps = steps + functional.linear(bottoms[2].reshape(x.shape[1], -1), weights.pop(2))
            tops = []
            for given, mark in zip(steps, marks):
                top, *state = self.step(given, mark[:, None], state, weights[2:])
                tops.append(top)
        state = [each.detach() for each in state]
        if self.exposed:
            return (torch.stack(tops), *(each[None] for each in state))
        self.state = state
        return (torch.stack(tops),)

    def step(
        self, given: torch.Tensor, mark: torch.Tensor, state: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        """One time step: its output, and the state after it.

        Args:
            given: what the inputs give to this step, (streams, n).
            mark: 0 where a sequence begins, (streams, 1).
            state: what the step before left.
            weights: the blobs but those of the inputs.
        """
        raise NotImplementedError


class LSTM(_Recurrent):
    """Long short-term memory without peepholes: h = o tanh(c), c = mark f c + i g, gates in the order i, f, o, g."""

    @override
    def step(
        self, given: torch.Tensor, mark: torch.Tensor, state: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        hidden, cells = state
        gates = given + functional.linear(hidden * mark, weights[0])
        cells, hidden = unit(cells, gates, mark)
        return [hidden, hidden, cells]


class RNN(_Recurrent):
    """h = tanh(W_hh (mark h) + W_xh x + b_h), of which the top is tanh(W_ho h + b_o)."""

    @override
    def step(
        self, given: torch.Tensor, mark: torch.Tensor, state: Sequence[torch.Tensor], weights: Sequence[torch.Tensor]
    ) -> list[torch.Tensor]:
        hidden = torch.tanh(given + functional.linear(state[0] * mark, weights[0]))
        return [torch.tanh(functional.linear(hidden, weights[1], weights[2])), hidden]


class LSTMUnit(Layer):
    """The cells and hidden values of one step of an LSTM, from the cells before, the gates and the marks."""

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        cells, gates, marks = bottoms
        return unit(cells, gates, marks.detach()[..., None])


def unit(cells: torch.Tensor, gates: torch.Tensor, mark: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(cells, hidden values) after a step, each (..., n); gates (..., 4 n), mark (..., 1)."""
    apply: Callable[..., tuple[torch.Tensor, torch.Tensor]] = _Unit.apply
    return apply(cells, gates, mark)


class _Unit(torch.autograd.Function):
    """A step of an LSTM with Caffe's gradient, which takes the slope of the forget gate after the mark."""

    @staticmethod
    def forward(
        ctx: Any, cells: torch.Tensor, gates: torch.Tensor, mark: torch.Tensor
    ) -> tuple[torch.Tensor, torch.Tensor]:
        i, f, o, g = gates.chunk(4, -1)
        i, f, o, g = i.sigmoid(), f.sigmoid() * mark, o.sigmoid(), g.tanh()
        new = f * cells + i * g
        squashed = new.tanh()
        ctx.save_for_backward(cells, i, f, o, g, squashed)
        return new, o * squashed

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor, None]:
        of_cells, of_hidden = gradients
        cells, i, f, o, g, squashed = ctx.saved_tensors
        term = of_cells + of_hidden * o * (1 - squashed * squashed)
        of_gates = torch.cat(
            [
                term * g * i * (1 - i),
                term * cells * f * (1 - f),
                of_hidden * squashed * o * (1 - o),
                term * i * (1 - g * g),
            ],
            -1,
        )
        return term * f, of_gates, None
