"""What running a net does one after the other: a layer a step, or fewer steps where one pass does the work of two."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from caffe_split.engine.layers.base import Layer
from caffe_split.engine.layers.dense import Scale
from caffe_split.engine.layers.norm import BatchNorm
from caffe_split.engine.layers.pointwise import ReLU
from caffe_split.layertypes.table import record_of


@dataclass
class Step:
    """A layer with its blobs' names. done: blobs that nobody reads afterwards."""

    layer: Layer
    bottoms: tuple[str, ...]
    tops: tuple[str, ...]
    # A BatchNorm whose Scale follows is run by it.
    norm: BatchNorm | None = None
    # Bottoms that no gradient goes to.
    detached: tuple[int, ...] = ()
    # Loss weights of tops.
    weights: dict[int, float] = field(default_factory=dict)
    # Whether it takes bottoms of 16 bits as they are.
    low: bool = True
    done: list[str] = field(default_factory=list)

    def given(self, blobs: Mapping[str, torch.Tensor]) -> list[torch.Tensor]:
        """What the layer takes of these blobs."""
        given = [blobs[name] for name in self.bottoms]
        for index in self.detached:
            given[index] = given[index].detach()
        if not self.low:
            given = [bottom.float() if bottom.dtype == torch.bfloat16 else bottom for bottom in given]
        return given

    def run(self, blobs: Mapping[str, torch.Tensor]) -> Sequence[torch.Tensor]:
        """The layer's tops."""
        given = self.given(blobs)
        if self.norm is None:
            return self.layer.run(*given)
        scale = self.layer.blobs
        return (self.norm.scaled(given[0], scale[0], scale[1] if len(scale) > 1 else None),)


def outputs_of(layers: Sequence[Layer]) -> list[str]:
    """The blobs that no layer reads, sorted: Caffe's outputs."""
    free: set[str] = set()
    for layer in layers:
        free.difference_update(layer.text.bottoms)
        free.update(layer.text.tops)
    return sorted(free)


def plain_steps(layers: Sequence[Layer], weights: Sequence[dict[int, float]]) -> list[Step]:
    """A step a layer. weights: of each layer's tops in the loss, by place."""
    steps = []
    for layer, own in zip(layers, weights):
        downs = layer.text.message.get_all("propagate_down")
        detached = tuple(place for place, down in enumerate(downs) if not down)
        engine = record_of(layer.text.type).engine
        low = engine is not None and engine.takes_bf16
        steps.append(Step(layer, layer.text.bottoms, layer.text.tops, None, detached, own, low))
    return _told_when_done(steps, outputs_of(layers))


def fused_steps(layers: Sequence[Layer], weights: Sequence[dict[int, float]]) -> list[Step]:
    """As `plain_steps`, with a BatchNorm and the Scale behind it in one, ReLUs over their bottoms where allowed."""
    steps: list[Step] = []
    for index, step in enumerate(plain_steps(layers, weights)):
        step.done.clear()
        before = steps[-1] if steps else None
        if before is not None and _norm_goes_with(layers, before, step, index):
            assert isinstance(before.layer, BatchNorm)
            step = Step(step.layer, before.bottoms, step.tops, before.layer, before.detached, step.weights)
            steps.pop()
        elif isinstance(step.layer, ReLU):
            step.layer.in_place = _may_overwrite(layers, index)
        steps.append(step)
    return _told_when_done(steps, outputs_of(layers))


def _told_when_done(steps: list[Step], outputs: Sequence[str]) -> list[Step]:
    last = {name: index for index, step in enumerate(steps) for name in (*step.bottoms, *step.tops)}
    for name, index in last.items():
        if name not in outputs:
            steps[index].done.append(name)
    return steps


def _norm_goes_with(layers: Sequence[Layer], before: Step, step: Step, index: int) -> bool:
    return (
        isinstance(before.layer, BatchNorm)
        and isinstance(step.layer, Scale)
        and before.norm is None
        and step.bottoms == before.tops
        and not step.detached
        and step.layer.is_per_channel()
        and _readers(layers, index - 1) == [index]
    )


def _readers(layers: Sequence[Layer], writer: int) -> list[int]:
    """The layers that read the top of layer `writer` as it wrote it; the net's user counts as one behind the last."""
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
    """Whether layer `index` is in place, alone reads its bottom, and who wrote that needs it no more."""
    bottom = layers[index].text.bottoms[0]
    if layers[index].text.tops != (bottom,):
        return False
    writers = [place for place in range(index) if bottom in layers[place].text.tops]
    writer = layers[writers[-1]]
    engine = record_of(writer.text.type).engine
    free = engine is not None and engine.lets_overwrite(writer.text)
    return free and _readers(layers, writers[-1]) == [index]
