"""What Caffe refuses of the tops when it connects the layers of a net: blobs that are written twice.

`caffe_split.net.bottoms` has what it refuses of the bottoms.
"""

from __future__ import annotations

from collections.abc import Iterator

from caffe_split.net.layers import Layer


class Wires:
    """What Caffe refuses of tops when it connects the layers, which are shown to it in their order."""

    def __init__(self) -> None:
        # Blob -> the last layer so far with that top; and the layer that has read it since, or why it counts as read.
        self._written: dict[str, str] = {}
        self._read: dict[str, str] = {}

    def problems(self, layer: Layer) -> Iterator[str]:
        """What is wrong with the tops of the next layer."""
        readers = dict(self._read)
        for bottom in layer.bottoms:
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
