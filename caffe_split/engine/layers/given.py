"""Data layers of forks, whose files are not read: blobs that the caller fills, as those of an Input layer."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from typing_extensions import override

from caffe_split.engine.layers.base import Shape, Tops
from caffe_split.engine.layers.inputs import Input
from caffe_split.layertypes.records.fork_data import READERS
from caffe_split.layertypes.shape_rules import UnknownShapeError
from caffe_split.layertypes.table import record_for


class Given(Input):
    """Blobs that the caller fills, of the shapes that the caller or the layer's options give.

    Attributes:
        read: the tops that other layers read; `run` raises `CaffeSplitError` while the caller has not given them.
    """

    options_name = ""
    read: frozenset[str] = frozenset()

    @override
    def setup(self, bottoms: Sequence[Shape]) -> None:
        del bottoms  # They hold what another layer has read from files in the fork, and the caller gives what it makes.
        given = self.place.inputs
        lacking = [top for top in self.text.tops if top not in given]
        found = dict(given)
        if lacking:
            found.update((top, shape) for top, shape in self._written().items() if top in lacking)
            lacking = [top for top in self.text.tops if top not in found]
        if lacking:
            raise self.error(
                f"{self._why()}, and the shape of '{lacking[0]}' is not known: "
                f'give the shapes, Net(..., inputs={{"{lacking[0]}": (1, 3, 224, 224), ...}}), and then the arrays.'
            )
        self.top_shapes = [(self.rows(found[top][0]).count, *found[top][1:]) for top in self.text.tops]
        self._empty = [torch.zeros(shape, device=self.place.device) for shape in self.top_shapes]
        self.values = list(self._empty)

    @override
    def run(self, *bottoms: torch.Tensor) -> Tops:
        for top, value, empty in zip(self.text.tops, self.values, self._empty):
            if value is empty and top in self.read:
                raise self.error(
                    f"{self._why()}, and no array of '{top}' was given: give it in Python, "
                    f'net.forward({{"{top}": array, ...}}).'
                )
        return super().run(*bottoms)

    def _why(self) -> str:
        """Why nothing is read."""
        engine = record_for(self.text).engine
        if self.text.type in READERS and engine is not None:
            return f"{engine.ignored['*'].partition(', so its')[0]}, so nothing is read"
        return f"the records of {self.text.type} layers are not read"

    def _written(self) -> dict[str, Shape]:
        """The shapes of the tops that the layer's options tell."""
        rule = record_for(self.text).shapes
        if isinstance(rule, str):
            return {}
        try:
            return dict(zip(self.text.tops, rule(self.text, []).tops))
        except UnknownShapeError:
            return {}
