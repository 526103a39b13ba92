"""`debug_info`: Caffe's log lines with the mean absolute value of each blob, forward, and of each gradient, backward.

A blob that several layers read has one gradient per reader. Caffe logs these under the names of the copies that its
Split layers make; here each has the name of the blob.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch

from caffe_split.engine.layers.base import Layer
from caffe_split.engine.log import Log, number
from caffe_split.engine.model.late import Memory
from caffe_split.engine.model.net import Net, Output
from caffe_split.engine.model.precision import lower


class DebugInfo:
    """Runs a net, which must not be fused, layer by layer, and logs the values."""

    def __init__(self, log: Log) -> None:
        self._log = log
        # Of the last forward run: each layer, its bottoms and its parameters, as tensors that keep their gradients.
        self._seen: list[tuple[Layer, list[torch.Tensor], list[torch.Tensor]]] = []
        self._net: Net | None = None
        # Gradients of parameters from earlier batches of the iteration (iter_size), by the key of the parameter.
        self._before: dict[int, torch.Tensor] = {}

    def forward(self, net: Net) -> Output:
        """Do what `net.forward()` does, and log Caffe's [Forward] lines."""
        self._net, self._seen = net, []
        self._before = {
            _key(param.values): param.values.grad.clone() for param in net.params if param.values.grad is not None
        }
        blobs: dict[str, torch.Tensor] = {}
        losses: list[torch.Tensor] = []
        memory: Memory = {}
        with lower(net.device, net.precision):
            for call in net.plain_calls:
                layer, owned = call.layer, call.layer.blobs
                given = [_tapped(bottom) for bottom in call.given(blobs, memory)]
                layer.blobs = [_tapped(blob) for blob in owned]
                self._seen.append((layer, given, layer.blobs))
                try:
                    net.collect(call, call.compute(given, memory), blobs, losses)
                finally:
                    layer.blobs = owned
                for name in call.tops:
                    self._say("Forward", layer, f"top blob {name}", "data", blobs[name])
                for name, blob in zip(_names(layer), owned):
                    self._say("Forward", layer, f"param blob {name}", "data", blob)
        return Output({name: blobs[name] for name in net.outputs}, net.total(losses))

    def backward(self) -> None:
        """Log Caffe's [Backward] lines, after the backward run of the last forward run's loss."""
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
                    # The gradient that layers sharing the parameter have summed up so far, from the end of the net.
                    key = _key(owner)
                    sums[key] = sums[key] + _diff(param).view_as(sums[key]) if key in sums else _diff(param)
                    self._say("Backward", layer, f"param blob {index}", "diff", sums[key])
        data = [param.values.detach() for param in self._net.params]
        diffs = [_diff(param.values) for param in self._net.params]
        (l1, l2), (l1_diff, l2_diff) = _norms(data), _norms(diffs)
        self._log.info(
            f"    [Backward] All net params (data, diff): L1 norm = ({number(l1)}, {number(l1_diff)}); "
            f"L2 norm = ({number(l2)}, {number(l2_diff)})"
        )

    def _say(self, way: str, layer: Layer, what: str, kind: str, values: torch.Tensor) -> None:
        mean = float(values.detach().float().abs().mean()) if values.numel() else math.nan
        self._log.info(f"    [{way}] Layer {layer.name}, {what} {kind}: {number(mean)}")


def _tapped(values: torch.Tensor) -> torch.Tensor:
    """The same values as a tensor that keeps its own gradient."""
    if not values.requires_grad:
        return values
    tap = values.view_as(values)
    tap.retain_grad()
    return tap


def _names(layer: Layer) -> list[str]:
    """The names that Caffe logs for a layer's parameters; the index for one without a name."""
    names = layer.text.param_names()
    return [names[index] if index < len(names) and names[index] else str(index) for index in range(len(layer.blobs))]


def _goes_back(layer: Layer, index: int) -> bool:
    """Whether Caffe logs a gradient of the parameter: unless its lr_mult is written as 0, also for statistics."""
    specs = layer.text.message.subs("param")
    if layer.text.type == "BatchNorm" and index < 3 and (len(specs) >= 3 or len(layer.blobs) > 3):
        return False  # Caffe has set them to 0.
    return index >= len(specs) or bool(specs[index].get("lr_mult", 1.0))


def _key(values: torch.Tensor) -> int:
    """A number for a parameter, the same for all blobs that share its values."""
    return values.untyped_storage().data_ptr()


def _diff(values: torch.Tensor) -> torch.Tensor:
    """The gradient; zeros if there is none."""
    return torch.zeros_like(values) if values.grad is None else values.grad


def _norms(arrays: Sequence[torch.Tensor]) -> tuple[float, float]:
    """The L1 and L2 norms of all arrays together."""
    l1 = sum(float(array.float().abs().sum()) for array in arrays)
    return l1, math.sqrt(sum(float((array.float() ** 2).sum()) for array in arrays))
