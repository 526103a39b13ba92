"""Which layer wrote the blob that another one reads: a document's layers as a graph, in-place chains included."""

from __future__ import annotations

import bisect
from collections.abc import Sequence

from caffe_split.net.layers import Layer


class Graph:
    """The layers of a document in file order, and who reads whom.

    All phases stand side by side in one document; the writer of a blob is simply the last layer above its reader
    that has it as a top.
    """

    def __init__(self, layers: Sequence[Layer]) -> None:
        self.layers = tuple(layers)
        self._writers: dict[str, list[int]] = {}
        self._names: dict[str, list[int]] = {}
        self._params: dict[str, list[int]] = {}
        for index, layer in enumerate(self.layers):
            self._names.setdefault(layer.name, []).append(index)
            for top in layer.tops:
                self._writers.setdefault(top, []).append(index)
            for name in layer.param_names():
                self._params.setdefault(name, []).append(index)
        self._readers: dict[int, list[int]] = {}
        for index, layer in enumerate(self.layers):
            for bottom in layer.bottoms:
                writer = self.writer(bottom, index)
                if writer is not None:
                    self._readers.setdefault(writer, []).append(index)

    def writer(self, blob: str, reader: int) -> int | None:
        """The index of the layer that wrote `blob` as layer `reader` sees it; None where none above has it."""
        writers = self._writers.get(blob, [])
        place = bisect.bisect_left(writers, reader)
        return writers[place - 1] if place else None

    def named(self, name: str) -> list[int]:
        """The indices of the layers of that name: one, or one per phase."""
        return list(self._names.get(name, []))

    def sharing(self, param: str) -> list[int]:
        """The indices of the layers that have a parameter of that name; none for the empty name."""
        return list(self._params.get(param, [])) if param else []

    def writers(self, blob: str) -> list[int]:
        """The indices of all layers that have `blob` as a top."""
        return list(self._writers.get(blob, []))

    def readers(self, writer: int) -> list[int]:
        """The indices of the layers that read a top of layer `writer`, as it wrote it."""
        return list(self._readers.get(writer, []))

    def sole_reader(self, writer: int) -> int | None:
        """The one layer that reads the top of layer `writer`; None where there are more, or none.

        Also None where another layer, of another phase, writes that blob anew: its readers then read both.
        """
        tops = self.layers[writer].tops
        readers = self.readers(writer)
        if len(tops) != 1 or len(readers) != 1:
            return None
        fresh = [index for index in self.writers(tops[0]) if tops[0] not in self.layers[index].bottoms]
        return readers[0] if len(fresh) == 1 else None


def rules(layer: Layer) -> tuple[str, ...]:
    """A layer's include and exclude rules, for comparing them with another layer's."""
    return tuple(
        f"{key} {' '.join(str(rule).split())}" for key in ("include", "exclude") for rule in layer.message.subs(key)
    )
