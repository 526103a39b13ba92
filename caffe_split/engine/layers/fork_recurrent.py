"""Recurrent layers of forks: CTPN's Lstm, and ConvLSTM, whose products are convolutions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch.nn import functional
from typing_extensions import override

from caffe_split.engine.layers.base import Layer, Shape, Tops
from caffe_split.engine.layers.fillers import fill
from caffe_split.engine.layers.recurrent import unit
from caffe_split.layertypes.records.fork_recurrent import convolutions, peepholes, windows
from caffe_split.net.geometry import Window


class Lstm(Layer):
    """CTPN's: an LSTM with the gates i, f, o, g over x (time, streams, ...).

    Without a second bottom each sequence of a batch begins with a state of zeros. With it, as in LSTM, the marks are 0
    where a sequence begins, and the state goes on from batch to batch. The gradient of the gates before their
    functions is limited to clipping_threshold, unless that is 0.
    """

    options_name = "lstm_param"

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        found = self.inferred(bottoms)
        fillers = [self.options.sub(name) for name in ("weight_filler", "weight_filler", "bias_filler")]
        self.blobs = [fill(shape, filler, self.place.generator) for shape, filler in zip(found.params, fillers)]
        _, streams, count = found.tops[0]
        self.state = [torch.zeros(streams, count, device=self.place.device) for _ in range(2)]

    @override
    def multiply_adds(self, bottoms: Sequence[Shape]) -> int:
        return self.inferred(bottoms).macs

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        with torch.autocast(bottoms[0].device.type, enabled=False):
            x = bottoms[0]
            weight, of_h, bias = self.blobs
            steps = functional.linear(x.reshape(x.shape[0] * x.shape[1], -1), weight, bias).view(*x.shape[:2], -1)
            most = float(self.options.get("clipping_threshold"))
            marks = torch.ones(x.shape[:2], dtype=x.dtype, device=x.device)
            hidden, cells = (each.to(x) for each in self.state)
            if len(bottoms) > 1:
                marks = (bottoms[1].detach().reshape(x.shape[:2]) != 0).to(x.dtype)
            else:
                hidden, cells = torch.zeros_like(hidden), torch.zeros_like(cells)
            tops = []
            for given, mark in zip(steps, marks):
                gates = given + functional.linear(hidden, of_h) * mark[:, None]
                cells, hidden = unit(cells, _limit_gradient(gates, most) if most > 0 else gates, mark[:, None])
                tops.append(hidden)
        if len(bottoms) > 1:
            self.state = [hidden.detach(), cells.detach()]
        return (torch.stack(tops),)

    @override
    def refit(self, bottoms: Sequence[Shape]) -> None:
        if len(bottoms) > 1:
            raise self.error(
                f"bottoms of other shapes than before, {', '.join(map(str, bottoms))}; it carries a state."
            )
        super().refit(bottoms)


class _Limited(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: torch.Tensor, most: float) -> torch.Tensor:
        ctx.most = most
        return x.view_as(x)

    @staticmethod
    def backward(ctx: Any, *gradients: torch.Tensor) -> tuple[torch.Tensor, None]:
        return gradients[0].clamp(-ctx.most, ctx.most), None


def _limit_gradient(x: torch.Tensor, most: float) -> torch.Tensor:
    apply: Callable[..., torch.Tensor] = _Limited.apply
    return apply(x, most)


class ConvLSTM(Layer):
    """An LSTM over maps (time, streams, channels, height, width) (Shi et al.), as an unrolled net computes it.

    The gates i, f, o, g are convolutions of x and of h; to i, f and o the cells of the step before are added, times a
    weight per place. Where the marks are 0, h and the cells of the step before count as 0, except in that sum. The
    state begins with zeros and goes on from batch to batch, unless expose_hidden makes it bottoms and tops.
    """

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        found = self.inferred(bottoms)
        self.of_x, self.of_h = convolutions(self.text)
        self.windows = windows(self.text)
        maps = (1, *found.tops[0][1:])
        self.has_bias = bool(self.of_h.get("bias_term"))
        cells = peepholes(self.text, maps)
        # The weights of the cells with axes of 1 behind, so that they stretch over maps of all streams.
        self.view = None if cells is None else (*cells[1], *[1] * (len(maps) - cells[0] - len(cells[1])))
        self.blobs = []
        for index, shape in enumerate(found.params):
            if cells is not None and index >= len(found.params) - 3:
                self.blobs.append(torch.ones(shape))
                continue
            options = self.of_x if index < 4 else self.of_h
            name = "bias_filler" if len(shape) == 1 else "weight_filler"
            self.blobs.append(fill(shape, options.sub(name), self.place.generator))
        self.exposed = len(found.tops) > 1
        self.state = [torch.zeros(maps[1:], device=self.place.device) for _ in range(2)]

    @override
    def multiply_adds(self, bottoms: Sequence[Shape]) -> int:
        return self.inferred(bottoms).macs

    @override
    def refit(self, bottoms: Sequence[Shape]) -> None:
        raise self.error(f"bottoms of other shapes than before, {', '.join(map(str, bottoms))}; it carries a state.")

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        with torch.autocast(bottoms[0].device.type, enabled=False):
            x, marks = bottoms[0], bottoms[1].detach()
            hidden, cells = (
                (each.detach()[0] for each in bottoms[2:]) if self.exposed else (each.to(x) for each in self.state)
            )
            blobs = list(self.blobs)  # those of a module have no slices
            of_h = blobs[4 : 4 + (8 if self.has_bias else 4)]
            weight_x, weight_h = torch.cat(blobs[:4]), torch.cat(of_h[:: 2 if self.has_bias else 1])
            bias = torch.cat(of_h[1::2]) if self.has_bias else None
            flat = _slide(x.flatten(0, 1), weight_x, None, self.windows[0], int(self.of_x.get("group")))
            steps = flat.view(*x.shape[:2], *flat.shape[1:])
            tops = []
            for given, mark in zip(steps, marks):
                kept = mark.view(-1, 1, 1, 1)
                gates = given + _slide(hidden * kept, weight_h, bias, self.windows[1], int(self.of_h.get("group")))
                if self.view is not None:
                    looked = [cells * each.view(self.view) for each in blobs[-3:]]
                    gates = gates + torch.cat([*looked, torch.zeros_like(cells)], 1)
                cells, hidden = _maps(cells, gates, kept)
                tops.append(hidden)
        state = [hidden.detach(), cells.detach()]
        if self.exposed:
            return (torch.stack(tops), *(each[None] for each in state))
        self.state = state
        return (torch.stack(tops),)


def _slide(x: torch.Tensor, weight: torch.Tensor, bias: torch.Tensor | None, w: Window, group: int) -> torch.Tensor:
    """Four convolutions at once: their kernels behind each other, gate by gate."""
    if group == 1:
        return functional.conv2d(x, weight, bias, w.stride, w.pad, w.dilation)
    count = len(weight) // 4
    parts = [
        functional.conv2d(
            x,
            weight[gate * count : (gate + 1) * count],
            None if bias is None else bias[gate * count : (gate + 1) * count],
            w.stride,
            w.pad,
            w.dilation,
            group,
        )
        for gate in range(4)
    ]
    return torch.cat(parts, 1)


def _maps(cells: torch.Tensor, gates: torch.Tensor, kept: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
    """(cells, hidden maps) after a step."""
    i, f, o, g = gates.chunk(4, 1)
    new = kept * f.sigmoid() * cells + i.sigmoid() * g.tanh()
    return new, o.sigmoid() * new.tanh()
