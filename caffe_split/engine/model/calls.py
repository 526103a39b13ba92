"""The calls of layers that run a net: one per layer, or fewer where one pass does the work of two layers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from caffe_split.engine.layers.base import Layer
from caffe_split.engine.layers.dense import Scale
from caffe_split.engine.layers.norm import BatchNorm
from caffe_split.engine.layers.pointwise import ReLU
from caffe_split.engine.model.late import Memory, as_it_stands, run_late
from caffe_split.engine.spec.memory import Access, Trace
from caffe_split.layertypes.table import record_of


@dataclass
class LayerCall:
    """A call of a layer on named blobs.

    Attributes:
        layer: the layer that is called.
        bottoms: the names of its bottoms.
        tops: the names of its tops.
        norm: the BatchNorm in front of a Scale that runs in the same pass; the bottoms are then those of the BatchNorm.
        detached: indices of the bottoms that get no gradient.
        weights: index of a top -> its loss weight.
        low: whether the layer takes bfloat16 bottoms as they are.
        done: names of the blobs that no later call reads.
        access: how the layer meets memory that layers in place overwrite.
        varies: whether the shapes of its bottoms may change from batch to batch.
    """

    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    norm: BatchNorm | None = None
    detached: tuple[int, ...] = ()
    weights: dict[int, float] = field(default_factory=dict)
    low: bool = True
    done: list[str] = field(default_factory=list)
    access: Access = field(default_factory=Access)
    varies: bool = False

    def given(self, blobs: Mapping[str, torch.Tensor], memory: Memory) -> list[torch.Tensor]:
        """The bottoms as the layer takes them, from all blobs by name, and from memory that was overwritten."""
        given = [blobs[name] for name in self.bottoms]
        for index, cell in self.access.stale.items():
            given[index] = as_it_stands(given[index], memory[cell])
        for index in self.detached:
            given[index] = given[index].detach()
        if not self.low:
            given = [bottom.float() if bottom.dtype == torch.bfloat16 else bottom for bottom in given]
        return given

    def run(self, blobs: Mapping[str, torch.Tensor], memory: Memory) -> Sequence[torch.Tensor]:
        """Call the layer. Returns its tops."""
        return self.compute(self.given(blobs, memory), memory)

    def compute(self, given: Sequence[torch.Tensor], memory: Memory) -> Sequence[torch.Tensor]:
        """The tops of bottoms as `given` returns them; those that are needed later are put into `memory`."""
        if self.varies:
            shapes = [tuple(bottom.shape) for bottom in given]
            for layer in (self.layer,) if self.norm is None else (self.norm, self.layer):
                layer.follow(shapes)
        if self.norm is not None:
            scale = self.layer.blobs
            tops: Sequence[torch.Tensor] = (self.norm.scaled(given[0], scale[0], scale[1] if len(scale) > 1 else None),)
        elif self.access.late:
            tops = run_late(self.layer, self.access, memory, given)
        else:
            tops = self.layer.run(*given)
        for index, cell in self.access.writes.items():
            memory[cell] = tops[index].detach()
        return tops


def outputs_of(layers: Sequence[Layer]) -> list[str]:
    """The names of the net's outputs: the blobs that no layer reads, sorted as in Caffe."""
    free: set[str] = set()
    for layer in layers:
        free.difference_update(layer.text.bottoms)
        free.update(layer.text.tops)
    return sorted(free)


def plain_calls(layers: Sequence[Layer], weights: Sequence[dict[int, float]]) -> list[LayerCall]:
    """One call per layer. weights: for each layer, index of a top -> its loss weight."""
    calls = []
    accesses = Trace([layer.text for layer in layers]).accesses
    for layer, own, access in zip(layers, weights, accesses):
        downs = layer.text.message.get_all("propagate_down")
        detached = tuple(place for place, down in enumerate(downs) if not down)
        engine = record_of(layer.text.type).engine
        low = engine is not None and engine.takes_bf16 and not access.late
        calls.append(
            LayerCall(
                layer,
                layer.text.bottoms,
                layer.text.tops,
                detached=detached,
                weights=own,
                low=low,
                access=access,
            )
        )
    return _with_done(calls, outputs_of(layers))


def fused_calls(layers: Sequence[Layer], weights: Sequence[dict[int, float]]) -> list[LayerCall]:
    """As `plain_calls`, with one call for a BatchNorm and the Scale behind it, and ReLUs that overwrite their bottoms.

    Both only where loss, gradients and outputs stay the same.
    """
    calls: list[LayerCall] = []
    for index, call in enumerate(plain_calls(layers, weights)):
        call.done.clear()
        before = calls[-1] if calls else None
        if before is not None and _norm_goes_with(layers, before, call, index):
            assert isinstance(before.layer, BatchNorm)
            call = LayerCall(
                call.layer,
                before.bottoms,
                call.tops,
                norm=before.layer,
                detached=before.detached,
                weights=call.weights,
                access=replace(call.access, stale=before.access.stale),
            )
            calls.pop()
        elif isinstance(call.layer, ReLU):
            late = call.access.late or call.access.stale
            call.layer.in_place = not late and _may_overwrite(layers, index)
        calls.append(call)
    return _with_done(calls, outputs_of(layers))


def _with_done(calls: list[LayerCall], outputs: Sequence[str]) -> list[LayerCall]:
    """The calls with the names of the blobs that are not needed after each."""
    last = {name: index for index, call in enumerate(calls) for name in (*call.bottoms, *call.tops)}
    for name, index in last.items():
        if name not in outputs:
            calls[index].done.append(name)
    return calls


def _norm_goes_with(layers: Sequence[Layer], before: LayerCall, call: LayerCall, index: int) -> bool:
    """Whether a BatchNorm, called `before`, can run in the same pass as the next layer, number `index`."""
    return (
        isinstance(before.layer, BatchNorm)
        and isinstance(call.layer, Scale)
        and before.norm is None
        and call.bottoms == before.tops
        and not call.detached
        and not (before.access.writes or call.access.stale or call.access.late)
        and call.layer.is_per_channel()
        and _readers(layers, index - 1) == [index]
    )


def _readers(layers: Sequence[Layer], writer: int) -> list[int]:
    """Indices of the layers that read the top of layer `writer` before it is overwritten.

    If the top is an output of the net, the number of layers is added, for the caller of the net.
    """
    top = layers[writer].text.tops[0]
    readers = []
    for index in range(writer + 1, len(layers)):
        text = layers[index].text
        if top in text.bottoms:
            readers.append(index)
        if top in text.tops:
            return readers
    return [*readers, len(layers)] if top in outputs_of(layers) else readers


def _may_overwrite(layers: Sequence[Layer], index: int) -> bool:
    """Whether layer `index` may write over its bottom.

    It has to be in place in the net, be the only reader, and the layer that wrote the bottom must not need it any more.
    """
    bottom = layers[index].text.bottoms[0]
    if layers[index].text.tops != (bottom,):
        return False
    writers = [place for place in range(index) if bottom in layers[place].text.tops]
    writer = layers[writers[-1]]
    engine = record_of(writer.text.type).engine
    free = engine is not None and engine.lets_overwrite(writer.text)
    return free and _readers(layers, writers[-1]) == [index]
