"""The calls of layers that run a net: one per layer, or fewer where one pass does the work of two layers."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field, replace

import torch

from caffe_split.engine.layers.base import Layer
from caffe_split.engine.layers.dense import Convolution, Scale
from caffe_split.engine.layers.norm import BatchNorm
from caffe_split.engine.layers.pointwise import ReLU
from caffe_split.engine.layers.pool import Pooling
from caffe_split.engine.layers.shape import Eltwise
from caffe_split.engine.model.chains import Chain
from caffe_split.engine.model.late import Memory, as_it_stands, run_late
from caffe_split.engine.spec.memory import Access, Trace
from caffe_split.layertypes.table import record_for


@dataclass
class LayerCall:
    """A call of a layer on named blobs.

    Attributes:
        layer: the layer that is called.
        bottoms: the names of its bottoms.
        tops: the names of its tops; of a chain two, where `with_twins` has given its readers a tensor each.
        chain: the layers that run in the same pass, of which `layer` is the last; the bottoms are then the chain's.
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
    chain: Chain | None = None
    detached: tuple[int, ...] = ()
    weights: dict[int, float] = field(default_factory=dict)
    low: bool = True
    done: list[str] = field(default_factory=list)
    access: Access = field(default_factory=Access)
    varies: bool = False

    @property
    def layers(self) -> Sequence[Layer]:
        """All layers that it calls."""
        return (self.layer,) if self.chain is None else self.chain.layers

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
            (self.layer if self.chain is None else self.chain).follow(shapes)
        if self.chain is not None:
            tops: Sequence[torch.Tensor] = self.chain.run(given, twice=len(self.tops) > 1)
        elif self.access.late:
            tops = run_late(self.layer, self.access, memory, given)
        elif not self.low and given and torch.is_autocast_enabled(given[0].device.type):
            # Float32 throughout: autocast would make the products of float32 values bfloat16.
            with torch.autocast(given[0].device.type, enabled=False):
                tops = self.layer.run(*given)
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


def plain_calls(
    layers: Sequence[Layer], weights: Sequence[dict[int, float]], read: Collection[str] | None = None
) -> list[LayerCall]:
    """One call per layer.

    weights: for each layer, index of a top -> its loss weight. read: the blobs that are read after the run, else all.
    """
    calls = []
    accesses = Trace([layer.text for layer in layers], read).accesses
    for layer, own, access in zip(layers, weights, accesses):
        downs = layer.text.message.get_all("propagate_down")
        detached = tuple(place for place, down in enumerate(downs) if not down)
        engine = record_for(layer.text).engine
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
    return with_done(calls, outputs_of(layers))


def fused_calls(layers: Sequence[Layer], weights: Sequence[dict[int, float]], kernels: bool = True) -> list[LayerCall]:
    """As `plain_calls`, with one call for a BatchNorm and what is after it, and ReLUs that overwrite their bottoms.

    Both only where loss, gradients and outputs stay the same. kernels: whether compiled kernels may be used.
    """
    calls: list[LayerCall] = []
    for index, call in enumerate(plain_calls(layers, weights, outputs_of(layers))):
        before = _chain_for(layers, calls, call, index)
        if before is not None:
            calls.remove(before)
            call = _longer(before, call, index)
        elif isinstance(call.layer, (Convolution, Pooling)):
            call.layer.by_kernels = kernels
        elif isinstance(call.layer, BatchNorm) and call.access.is_plain:
            call.chain = Chain(call.layer, index, kernels)
        elif isinstance(call.layer, ReLU):
            late = call.access.late or call.access.stale
            call.layer.in_place = not late and _may_overwrite(layers, index)
        calls.append(call)
    return with_done(calls, outputs_of(layers))


def _chain_for(layers: Sequence[Layer], calls: Sequence[LayerCall], call: LayerCall, index: int) -> LayerCall | None:
    """The call of a chain that the next `call`, of layer number `index`, may be part of; None if there is none."""
    if not isinstance(call.layer, (Scale, Eltwise, ReLU)) or call.detached or not call.access.is_plain:
        return None
    for before in reversed(calls):
        if before.chain is None or before.tops[0] not in call.bottoms:
            continue
        alone = _readers(layers, before.chain.last) == [index] and len(set(call.bottoms)) == len(call.bottoms)
        fits = before.chain.takes(call.layer) and before.low == call.low and not before.weights
        # A sum may stand further on: what the chain has read is overwritten by nobody, as Caffe demands.
        return before if alone and fits else None
    return None


def _longer(before: LayerCall, call: LayerCall, index: int) -> LayerCall:
    """The call of a chain and of the layer after it, number `index`, in one."""
    assert before.chain is not None
    chain = replace(before.chain, last=index)
    bottoms = before.bottoms
    if isinstance(call.layer, Scale):
        chain = replace(chain, scale=call.layer)
    elif isinstance(call.layer, Eltwise):
        chain = replace(chain, total=call.layer)
        bottoms = (bottoms[0], *(name for name in call.bottoms if name != before.tops[0]))
    elif isinstance(call.layer, ReLU):
        chain = replace(chain, relu=call.layer)
    return LayerCall(
        call.layer, bottoms, call.tops, chain=chain, detached=before.detached, weights=call.weights, low=call.low
    )


def with_done(calls: list[LayerCall], outputs: Sequence[str]) -> list[LayerCall]:
    """The calls with the names of the blobs that are not needed after each."""
    last = {name: index for index, call in enumerate(calls) for name in (*call.bottoms, *call.tops)}
    for call in calls:
        call.done.clear()
    for name, index in last.items():
        if name not in outputs:
            calls[index].done.append(name)
    return calls


def with_twins(calls: Sequence[LayerCall], outputs: Sequence[str]) -> list[LayerCall]:
    """The calls with two tensors for each top of a chain that is read several times, so that it adds the gradients.

    The first reader gets one of them, all others the second. outputs: the blobs that are read from outside.
    """
    found = list(calls)
    for at, call in enumerate(found):
        if call.chain is None or not call.chain.kernels:
            continue
        (name,), again, readers = call.tops, f"{call.tops[0]}\0", []
        for later in range(at + 1, len(found)):
            readers += [later] if name in found[later].bottoms else []
            if name in found[later].tops:
                break
        for later in readers[1:]:
            bottoms = (again if bottom == name else bottom for bottom in found[later].bottoms)
            found[later] = replace(found[later], bottoms=tuple(bottoms))
        if len(readers) > 1:
            found[at] = replace(call, tops=(name, again))
    return with_done([replace(call, done=[]) for call in found], outputs)


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
    engine = record_for(writer.text).engine
    free = engine is not None and engine.lets_overwrite(writer.text)
    return free and _readers(layers, writers[-1]) == [index]
