"""`debug_info`: Caffe's lines on what goes forward through each layer and back, the mean of absolute values.

A blob that several layers read has a gradient for each of them, as in Caffe; Caffe says it of the copies that its own
Split layers make, and names those.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from caffe_split.engine.layers.base import Layer
from caffe_split.engine.log import Log, number
from caffe_split.engine.model.net import Net, Output
from caffe_split.engine.model.precision import lower


class DebugInfo:
    """Runs a net layer by layer and says what it sees. The net must not be fused."""

    def __init__(self, log: Log) -> None:
        self._log = log
        # Of the last forward: each layer with what it was given of its bottoms and its parameters.
        self._seen: list[tuple[Layer, list[torch.Tensor], list[torch.Tensor]]] = []
        self._net: Net | None = None
        self._before: dict[int, torch.Tensor] = {}

    def forward(self, net: Net) -> Output:
        """As `net.forward()`, with Caffe's [Forward] lines."""
        self._net, self._seen = net, []
        self._before = {
            id(param.values): param.values.grad.clone() for param in net.params if param.values.grad is not None
        }
        blobs: dict[str, torch.Tensor] = {}
        losses: list[torch.Tensor] = []
        with lower(net.device, net.precision):
            for step in net.plain_steps:
                layer, owned = step.layer, step.layer.blobs
                given = [_tapped(bottom) for bottom in step.given(blobs)]
                layer.blobs = [_tapped(blob) for blob in owned]
                self._seen.append((layer, given, layer.blobs))
                try:
                    net.place(step, layer.run(*given), blobs, losses)
                finally:
                    layer.blobs = owned
                for name in step.tops:
                    self._say("Forward", layer, f"top blob {name}", "data", blobs[name])
                for name, blob in zip(_names(layer), owned):
                    self._say("Forward", layer, f"param blob {name}", "data", blob)
        loss = torch.stack([loss.to(net.device) for loss in losses]).sum() if losses else torch.zeros(())
        return Output({name: blobs[name] for name in net.outputs}, loss)

    def backward(self) -> None:
        """The [Backward] lines, once the loss of the last forward has gone back."""
        assert self._net is not None
        sums = self._before
        for layer, bottoms, params in reversed(self._seen):
            if all(tap.grad is None for tap in (*bottoms, *params)):
                continue
            for name, bottom in zip(layer.text.bottoms, bottoms):
                if bottom.requires_grad:
                    self._say("Backward", layer, f"bottom blob {name}", "diff", _diff(bottom))
            for index, (owner, param) in enumerate(zip(layer.blobs, params)):
                if _goes_back(layer, index):
                    # What layers that share a parameter have given so far, from the net's end on.
                    key = id(owner if owner.is_leaf else owner._base)
                    sums[key] = sums[key] + _diff(param).view_as(sums[key]) if key in sums else _diff(param)
                    self._say("Backward", layer, f"param blob {index}", "diff", sums[key])
        data = [param.values.detach() for param in self._net.params]
        diffs = [_diff(param.values) for param in self._net.params]
        (l1, l2), (l1_diff, l2_diff) = _norms(data), _norms(diffs)
        self._log.info(
            f"    [Backward] All net params (data, diff): L1 norm = ({number(l1)}, {number(l1_diff)}); "
            f"L2 norm = ({number(l2)}, {number(l2_diff)})"
        )

    def _say(self, way: str, layer: Layer, what: str, of: str, values: torch.Tensor) -> None:
        mean = float(values.detach().float().abs().mean()) if values.numel() else math.nan
        self._log.info(f"    [{way}] Layer {layer.name}, {what} {of}: {number(mean)}")


def _tapped(values: torch.Tensor) -> torch.Tensor:
    """The same values, with a gradient of their own."""
    if not values.requires_grad:
        return values
    tap = values.view_as(values)
    tap.retain_grad()
    return tap


def _names(layer: Layer) -> list[str]:
    """What Caffe calls a layer's parameters: their names, or their numbers."""
    names = layer.text.param_names()
    return [names[index] if index < len(names) and names[index] else str(index) for index in range(len(layer.blobs))]


def _goes_back(layer: Layer, index: int) -> bool:
    """Whether Caffe counts a parameter among the learnt ones when it goes back: BatchNorm's statistics as well."""
    specs = layer.text.message.subs("param")
    return index >= len(specs) or bool(specs[index].get("lr_mult", 1.0))


def _diff(values: torch.Tensor) -> torch.Tensor:
    return torch.zeros_like(values) if values.grad is None else values.grad


def _norms(arrays: Sequence[torch.Tensor]) -> tuple[float, float]:
    l1 = sum(float(array.float().abs().sum()) for array in arrays)
    return l1, math.sqrt(sum(float((array.float() ** 2).sum()) for array in arrays))
