"""The time that each layer of a net takes, forward and backward."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence

import torch

from caffe_split.engine.model.late import Memory
from caffe_split.engine.model.net import Net

Tensors = Sequence[torch.Tensor]


def time_layers(
    net: Net, iterations: int, say: Callable[[int, float], None]
) -> tuple[list[tuple[str, float, float]], float]:
    """Mean times in milliseconds: (layer, forward, backward) in the order of the net, and of a whole iteration.

    One iteration that does not count comes first. `say` is given the number of each iteration and its milliseconds.
    """
    forward, backward = ([0.0] * len(net.plain_calls) for _ in range(2))
    _iterate(net, forward, backward)
    forward, backward = ([0.0] * len(net.plain_calls) for _ in range(2))
    total = 0.0
    for number in range(1, iterations + 1):
        took = _iterate(net, forward, backward)
        total += took
        say(number, took)
    rows = zip(net.plain_calls, forward, backward)
    return [(call.layer.name, one / iterations, other / iterations) for call, one, other in rows], total / iterations


def _iterate(net: Net, forward: list[float], backward: list[float]) -> float:
    """Run the net once, layer by layer; add the milliseconds of each. Returns those of all together."""
    blobs: dict[str, torch.Tensor] = {}
    memory: Memory = {}
    runs: list[tuple[Tensors, Tensors]] = []
    clock = _Clock(net.device)
    # As in a training on processors: see `Net`.
    channels_last = net.device.type == "cpu" and any(call.layer.text.type == "Convolution" for call in net.plain_calls)
    for index, call in enumerate(net.plain_calls):
        # Cut off from the layers before it, so that its gradient is computed for it alone.
        for name in call.bottoms:
            blobs[name] = blobs[name].detach().requires_grad_(blobs[name].requires_grad)
        leaves = [blobs[name] for name in dict.fromkeys(call.bottoms)]
        clock.start()
        tops = list(call.compute(call.given(blobs, memory), memory))
        forward[index] += clock.stop()
        if channels_last and not call.bottoms:
            tops = [top.contiguous(memory_format=torch.channels_last) if top.dim() == 4 else top for top in tops]
        blobs.update(zip(call.tops, tops))
        runs.append((leaves, tops))
    for index in reversed(range(len(runs))):
        bottoms, made_by = runs.pop()  # its memory is free for the layers before it
        wanted = [each for each in (*bottoms, *net.plain_calls[index].layer.blobs) if each.requires_grad]
        made = [top for top in made_by if top.requires_grad]
        if made and wanted:
            ones = [torch.ones_like(top) for top in made]
            clock.start()
            torch.autograd.grad(made, wanted, ones, allow_unused=True)
            backward[index] += clock.stop()
    return clock.total


class _Clock:
    """Measures milliseconds, of a CUDA device until it has done what it was given; `total` is their sum."""

    def __init__(self, device: torch.device) -> None:
        self.total = 0.0
        self._cuda = device.type == "cuda"
        self._start = 0.0

    def _now(self) -> float:
        if self._cuda:
            torch.cuda.synchronize()
        return time.perf_counter() * 1000

    def start(self) -> None:
        """Begin to measure."""
        self._start = self._now()

    def stop(self) -> float:
        """The milliseconds since `start`."""
        took = self._now() - self._start
        self.total += took
        return took
