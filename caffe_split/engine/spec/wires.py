"""What Caffe refuses when it connects the layers of a net: blobs that are not there, or that are written twice."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from caffe_split.net.layers import Layer


class Wires:
    """What Caffe refuses when it connects the layers, which are shown to it in their order.

    `every`: the layers of all phases and stages.
    """

    def __init__(self, every: Sequence[Layer]) -> None:
        self._every = every
        # Blob -> the last layer so far with that top; and the layer that has read it since, or why it counts as read.
        self._written: dict[str, str] = {}
        self._read: dict[str, str] = {}

    def problems(self, layer: Layer) -> Iterator[str]:
        """What is wrong with the bottoms and tops of the next layer."""
        readers = dict(self._read)
        for bottom in layer.bottoms:
            if bottom not in self._written:
                yield f"bottom '{bottom}' is no top of a layer above it in this phase{self._elsewhere(bottom, layer)}"
            self._read[bottom] = f"layer '{layer.name}' reads it"
        for index, top in enumerate(layer.tops):
            in_place = index < len(layer.bottoms) and layer.bottoms[index] == top
            if top in self._written and not in_place:
                first = self._written[top]
                yield f"top '{top}' is one of layer '{first}' already; only a layer in place may write it again"
            elif in_place and (top in readers or layer.bottoms.count(top) > 1):
                why = readers.get(top, "the layer itself reads it twice")
                yield f"it writes over '{top}', which Caffe refuses where {why}: give its top another name"
            self._written[top] = layer.name
            self._read.pop(top, None)
            weights = layer.message.get_all("loss_weight")
            if index < len(weights) and float(weights[index]):
                self._read[top] = "it has a loss_weight"

    def _elsewhere(self, bottom: str, layer: Layer) -> str:
        """The layer above it that has the bottom in another state of the net, as the end of a sentence."""
        for other in self._every:
            line = other.field.line
            if bottom in other.tops and other.name != layer.name and line < layer.field.line:
                return f"; layer '{other.name}' of line {line} gives it in another phase, stage or level"
        return ""
